"""The data plane: requests enter through `Admission.submit`, and `Results` gives each its one result.

An admitted request waits in a queue of the controller until a worker of the fleet launches it in a batch. It ends
exactly once: answered by its batch, failed with it, dropped from the queue, cancelled by its client, or late at its
deadline (`TimingWheel`), whichever comes first. A request whose device is lost is queued again, unless it has run
`MAX_RUNS` times.
Nothing here knows a protocol.
"""
