"""`proteus study share`: the cost for variants of sharing a device, or of running on neighbouring devices.

Theory of operation. A *cell* is a set of variants with their batch sizes, the way they meet (on one device, or on
neighbours), and a load (`cells.py`). It is measured in *rounds* (`rounds.py`). A round has one *slice* for each variant
alone and one for all together, in random order, one straight after another. Drift of the clock or of the machine's load
is then alike for all of them, and cancels out in the ratio of a round, together over alone. The centre of all ratios
and its interval come from the signed-rank statistic, which a few disturbed rounds do not move.

In a slice (`bench.py`) each device runs its *workload* of batches for some tenths of a second. At full load batches
follow each other without a pause. Those of several variants take turns, as in a server with a queue for each. Below
full load they arrive at random, at a rate that keeps the device busy for that part of the time.

Each device is a process of its own, pinned to its cores, with all engines loaded. All processes begin a slice at one
moment of their common clock, and the study's own process sleeps meanwhile. A GPU runs as many workloads at once as it
has slots, each in a thread with a stream of its own. A *stream* of memory takes the turn of a variant: it only reads
memory, and shows the highest cost of sharing. Emulated devices have the times of the profile and the costs of the
sharing file beside it.

The cells at full load become the sharing file, and sets of three or more are compared with the prediction of their
pairs (`drafting.py`).
"""
