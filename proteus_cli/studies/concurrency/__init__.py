"""``proteus study concurrency``: how much at once a device should do.

Theory of operation. A *cell* is a variant with a batch size and one quantity that varies (`measuring.py`): batches in
flight, served in a thread or in a process; threads; or devices that divide the cores. Each number is a *level*:
devices, and the number of batches in flight on each. Devices are opened as a server opens them, with its hand-overs,
slots and emulated times.

A sample keeps a number of batches in flight for some tenths of a second: as one ends, the next is submitted. The time
until each device has ended the first of them does not count. Samples of all levels are taken in rounds, in random
order, so that drift is alike for all. The knee is fitted to all samples (`knee.py`), with its confidence by bootstrap.
"""
