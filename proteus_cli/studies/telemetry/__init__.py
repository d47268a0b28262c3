"""What the machine does during a study: counters of the system, read now and then by a thread.

`counters.py` has what a reading is, and what lies between two. Three modules read: `process_tree.py` this process and
all that it started, `cores.py` the machine, `gpus.py` its GPUs. Each returns what the system says, and no more: a
container may hide clocks, another system has no ``/proc``. `sampler.py` reads at even distances, and keeps a bounded
number of samples: when there are too many, neighbours are merged, and the distance doubles.
"""
