"""`proteus study share`: what it costs variants to share a device, or to run on neighbouring devices.

Theory of operation. A *cell* is a set of variants with their batch sizes, where they meet (on one device, or on
neighbours), and a load (`cells.py`). It is measured in *rounds* (`rounds.py`). A round has one *slice* for each variant
alone and one for all together, in random order, one straight after another. So what drifts, the clock or the load of
the machine, drifts for all of them alike, and the ratio of a round, together over alone, is free of it. What the ratios
of all rounds say, and how sure that is, comes from the signed-rank statistic, which a few disturbed rounds do not move.

A slice (`slices.py`) says what each device does for some tenths of a second: its *workload* of batches. At full
load batches follow each other without a pause. Those of several variants take turns, as a server with a queue for each
would let them. Below full load they arrive at random, at a rate that keeps the device busy for that part of the time.

Each device is a process of its own, pinned to its cores, with all engines loaded (`child.py`), as devices are
served. All begin a slice at one moment of the clock that they share, and this process sleeps meanwhile
(`processes.py`). A GPU runs as many workloads at once as it has slots, each in a thread with a stream of its own.
A *stream* of memory takes the turn of a variant: it reads memory and does nothing else, and shows
the most that sharing costs.

Emulated devices have the times of the profile and the costs of the sharing file beside it.

In the end the cells at full load become the sharing file (`drafting.py`), and sets of three or more are compared with
what their pairs say of them.
"""
