"""How much at once a device should do: the scatter of throughput by what is in flight, and its knee.

As more is in flight, throughput rises, stays on a plateau, and may fall again, while each item only takes longer
(Liu et al., "ConScale", ICDCS 2020, call it the scatter of concurrency and throughput). The *knee* is the smallest
number in flight with the throughput of the plateau: fewer leave the device idle, more only wait on it.
"""
