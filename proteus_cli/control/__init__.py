"""Decisions about dispatch, topology and re-planning, as code that is told the time: no clock, no I/O, no threads.

Theory of operation
===================

Two drivers obey the same `Controller`: the live server (`serving/fleet`, `serving/requests`) and the simulator
(`simulation`). Its docstring says what it guarantees, with a worked example. The controller is a façade over:

* `dispatch.dispatch.Dispatch`: requests. It admits them, queues them, decides what each worker runs, and counts rows.
* `topology.plan_change.PlanChange`: the plan in force, and the steps to the next one.
* `topology.topology.Topology`: devices, engines and standbys.
* `replanning.replanning.Replanning`: when to ask for another plan, and for what demand.

Drivers import only values from these parts, none of their modules; an import contract checks it.

A driver calls in from two directions. *Changes* (a new plan, a load that ended, a lost device, a cancelled request)
return `Effects`: requests to drop, loads to start, workers to ask. *Decisions* answer one worker. A worker asks when an
effect or `Admitted` names it, when its batch has ended, and when its timer fires. It goes on asking until the answer is
`Idle` or `WaitUntil`. To ask once too often is harmless, so a driver never has to prove that it must ask.

**Life of a request.** `offer` refuses it or lets it wait. `Refused`: its rows and those before it exceed what the
workers carry until its deadline. `Unfit`: no variant is accurate enough. `TooManyRows`, `NeverInTime`: even an idle
device needs longer, so it is no demand. `OtherPlanNeeded`: an idle device of this plan needs longer, but another plan's
would not. `Admitted`: it waits in the `RequestQueue` of its eligible hosts (`dispatch.eligibility`), at the level of
its priority, in order of deadlines. It leaves the queue into a `Launch`, a `Drop`, or by `cancel`. A launched request
ends with its batch; if the device is lost first, it waits again with its old deadline.

**Who takes what** (`dispatch.request_queue`). Hosts that decisions need not tell apart form a *host class*. The classes
of a queue have an order: the most accurate first, hosts that the plan reserves for second stages after others, standbys
last. One rule decides. A free worker leaves rows to the classes before its own as long as these can make them. It takes
the excess at once, and a single row at the last moment at which it can still be made. From the rows that it may take,
it runs the largest batch in which every request meets its deadline, with the earliest requests possible
(`dispatch.selection`). Faster workers can still make the requests that it leaves at the head. A request that no host
can make is dropped. Under the paper's assignment each request is bound to one device at arrival, and a worker takes the
first requests of its own lane.

**Who is asked.** One worker at a time: the first free one, in order, that can make the first request
(`Lane.next_worker`). A worker that is full names the next ones for what it leaves (`Launch.wake`). The state of classes
is updated when it changes, so the steps of a decision grow with classes, not with workers: O(classes × log(requests)).
With dispatch ahead, a full batch is submitted shortly before the running one ends.

**Cascades.** When a batch of newcomers has ended, `dispatch.cascades.Cascades` assigns its requests to cascades of the
plan, and the driver says whether the first stage was sure of each. If not, the request comes back deferred (`defer`).
It waits with its old deadline, in a queue for hosts that are at least as accurate as the second variant. The driver
keeps the first answers. It sends one where `defer` refuses, where the deferred request is dropped, and at its last
moment.

**Slowdown.** Each worker measures its batches against the profile. Admission, batching and re-planning count with it.

**A device that joins** (`Controller.add_device`) counts as lost until its driver has tried it out. From then on a
controller decides as one that had the device from the start.

**Phases of a worker** (`devices.worker_phase.TRANSITIONS`)::

    serving ──load started──► loading ──load ended──► serving
       └───── device lost ──► lost ◄── device lost ──┘
                               └── device recovered ──► serving

**Plan change** (`topology.plan_change`). `PlanChange` is the state machine. Where old and new engines fit together, the
driver loads the new ones before it calls `adopt` (`Effects.beside`), and all devices switch at once. Other devices load
*in place*: `Effects.load` says which of them start now, so that no family misses more capacity than it can, and at most
`MAX_UNAVAILABLE_FRAC` of it. The end of each load may start others. Each `Load` is a value: if a later plan gives it
up, its end changes nothing. The driver reports loads that fail; the change says whether the earlier plan comes back.
Effects say what a device keeps loaded (`Keep`).

**Re-planning.** `replanning.decide` is called every ``rule.every_s``. It returns a `ReplanRequest` if devices or
engines came or went, or the policy's rule (`replanning.replan_rules`) finds that the demand no longer fits the plan.
Failures pause it (`replanning.Backoff`); a plan that a person chose is held for a while.
"""
