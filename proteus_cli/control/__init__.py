"""Decisions about dispatch, topology and re-planning, as code that is told the time: no clock, no I/O, no threads.

Theory of operation
===================

Two drivers obey the same `Controller`: the live server (`serving/fleet`, `serving/requests`) and the simulator
(`simulation`). The controller is a façade over three objects:

* `dispatch.dispatch.Dispatch`: requests. It admits them, queues them, decides what each worker runs, and counts rows.
* `topology.topology.Topology`: devices, engines, the plan in force, and the steps to it.
* `replanning.replanning.Replanning`: when to ask for another plan, and for what demand.

A driver calls in from two directions. *Changes* (a new plan, a load that ended, a lost device, a cancelled request)
return `Effects`: requests to drop, loads to start, workers to ask. *Decisions* answer one worker. A worker asks when
an effect or `Admitted` names it, when its batch has ended and when its timer fires, and it goes on asking until the
answer is `Idle` or `WaitUntil`. To ask once too often is harmless, and so a driver never has to prove that it must
ask.

**Life of a request.** `offer` refuses it (`Refused`: the rows before it and its own exceed what the workers carry until
its deadline; `Unfit`: nothing is accurate enough; `TooManyRows`, `NeverInTime`: even an idle device needs longer, so it
is no demand; `OtherPlanNeeded`: one of this plan does) or lets it wait (`Admitted`). A request waits in the queue of
its family, in the `AccuracyTier` of its minimum accuracy, at the level of its priority, in order of deadlines. It
leaves the queue into a `Launch`, a `Drop`, or by `cancel`. A launched request ends with its batch; if the device is
lost first, it waits again with its old deadline.

**Queues and quota.** Hosts with the same variant, batch times and capacity form a *host class*
(`dispatch.queues.host_class`): it does not matter which of them takes a row. In a `SharedQueue` (late binding) the
plan's shares assign *quota* to classes: each request adds its rows to the quota of the class that is furthest behind
its share. Quota says how many rows the workers of a class may take, not which: that is bound when one of them is free.
So shares hold, and no request waits behind one slow worker. The quota of all classes together equals the rows that
wait. In a `PerDeviceQueue` (the paper's) each host is a class, and a request is bound to one at arrival.

**What a worker does** (`dispatch.work_selector`). For each of its work sources it takes the largest batch, up to its
quota, that is in time for all of its requests, and of these the one with the earliest requests. What it leaves at the
head of the queue, faster workers can make; if they are busy too long, it is dropped, but batches and so capacity stay
as large as planned: that is why an overload ends with its cause. A worker without quota takes over rows of busy
workers: at once if no accuracy is lost, or if there are more than the more accurate ones can make; else those that
these cannot make any more. On one device, a faster variant first takes what a more accurate one passes over. A worker
that can make nothing transfers its quota to a faster class (`Delegate`). A request that no worker can make is dropped.
What all of them together cannot make is the *overflow*: a worker whose device has a faster standby of the family
(`Host.overflow`) runs a batch of that in place of its own, and a worker for which nothing waits runs one of a family
that its device has a *foreign* standby of (`AccuracyTier.foreign`).

**Who is asked.** One worker at a time: a free one of the class that got the quota, else the one that may take over,
else one with a foreign standby (`AccuracyTier.next_worker`). An arrival that changes nothing for a worker that waits to
take over asks nobody (`WaitingWorker.goes_on`). A worker that is full names the next one for what it leaves
(`Launch.wake`). What classes and tiers know of their workers is counted when it changes, so the steps of a decision
grow with classes, not with workers: O(classes + log(requests)). With dispatch ahead, a full batch is submitted shortly
before the running one ends.

**Cascades.** When a batch of newcomers has ended, `dispatch.cascades.Cascades` says which of its requests go by which
cascade of the plan, and the driver whether the first stage was sure of them. Those that it was not sure of come back
as deferred requests (`defer`): they wait in tiers of their own, for hosts that are at least as accurate as the second
variant, with the deadlines that they had. The driver keeps the first answers. It sends one where `defer` refuses, where
the deferred request is dropped, and at its last moment.

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

Worked example
--------------

cpu0 hosts ``fast`` (10 ms for one row, 16 ms for four) and gets all of family ``a`` by the plan; cpu1 hosts the same
and is a spare; the SLO is 100 ms. At 0 ms five requests arrive: each `offer` returns ``Admitted(("cpu0",))``, and the
quota of their class is 5. ``decide("cpu0")`` returns a `Launch` of three rows, as two free workers share the quota,
that says to ``wake`` cpu1: the quota left is 2. Asked again, it returns `Idle`. ``decide("cpu1")`` launches the other
two. At 5 ms cpu0 is lost: ``device_lost("cpu0", [launch])`` lets its three requests wait again and asks all workers;
cpu1 launches them at 12 ms, when its batch has ended, and they end at 26 ms. The next ``replanning.decide`` asks for a
plan without cpu0, because "cpu0 was lost".
"""
