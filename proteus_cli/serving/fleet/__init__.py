"""The devices of a server and what is loaded on them.

Theory of operation
===================

Each device has a `worker.Worker`, a `control.devices.breaker.Breaker` and an executor (`serving/devices`). The
worker asks the controller for decisions and has the executor do them, on the event loop. It never waits: batches end
by a callback.

**Plans** (`fleet.Fleet.deploy`). `PlanChange` says what to do next (`control.topology.plan_change`). Engines that fit
beside the serving ones are loaded first (`loading.Loader`), concurrently. Only then the controller adopts the plan, and
all workers switch at one instant. Devices without memory for both load in place, one step of the plan change after
another (`Effects.load`). At the end, what is no longer hosted is freed. If an engine cannot be loaded, the earlier plan
stays or is deployed again, and the engine's breaker opens.

**Losses** (`Fleet.lose`). A device is lost when its executor says so (it died) or when every batch fails (an engine or
driver broke). It is also lost when a batch or a load takes far longer than profiled (it hangs), which
`recovery.Recovery` looks for. The executor is abandoned, the requests of its batches wait again, and the controller
asks for a plan without the device.

**Recoveries** (`recovery.Recovery`). An open breaker is retried after a pause that doubles. The device is opened anew,
loads its earlier engines, and runs one batch of each. It serves again once that works. A broken engine gets its try in
the next plan that places it, with one batch before it serves.

**Devices that join** (`Fleet.add_device`) have an open breaker, as if they had been lost, and are tried out at once.
They host nothing until a plan wants it.

Changes of plans and recoveries take turns (one lock); losses may happen at any time, also in the middle of either.
"""
