"""``proteus study concurrency``: how much at once a device should do.

Theory of operation. A *cell* is a variant with a batch size, and what varies: batches in flight, as served in a thread
or in a process; threads; or devices that the cores are split into (`measuring.py`). Each number is a *level*: devices,
and how many batches are in flight on each. Devices are opened as a server opens them, so hand-overs, the
slots of a GPU and emulated times are those of a server.

A sample keeps so many batches in flight for some tenths of a second: as one ends, the next is
submitted. The time until each device has ended the first of them does not count. Samples of all levels are taken in
rounds, in random order, so that what drifts, drifts for all alike. The knee is found of all samples
(`knee.py`), and bootstrap says how sure it is.
"""
