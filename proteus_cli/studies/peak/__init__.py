"""`proteus study peak`: the highest rate of requests that is carried within the SLO.

Theory. Requests arrive at random (Poisson), at a rate, whether or not earlier ones were answered (open loop). v(rate)
is the part of them that miss their SLO in the long run: answered late, dropped, rejected or failed. It rises with the
rate, and steeply near the peak: the highest rate with v at most `PeakRules.allowed_frac`.

A *stretch* is some requests at one rate, behind a warm-up that does not count. Violations come in clumps, as a queue is
long for a while: counts of neighbouring windows tell by how much (`fit.py`), and everything below counts
requests as that many fewer.

The search (`search.py`) has two parts. It brackets the peak by short probes. A rate that seems to be carried is left at
once for a higher one; one that misses too much gets twice as many requests until that is sure (a
sequential test), and the next rate is lower. Only rates that are surely carried or violated are told as bounds. Then it
refines: stretches of fixed length just below and just above where the peak seems to be, to which a line is fitted, the
logarithm of the odds of a violation against that of the rate (`fit.py`). The interval of the peak follows from the
fit; the search ends when it is narrow enough, or when there is no more time. The stretches of the bracket are no part
of the fit, as they ended when they said something, which makes them exaggerate.

What carries the requests is a *carrier* (`carriers.py`): the simulator, a local server with real or emulated devices,
or any server of the protocol. The search knows nothing of it: it asks for a rate and a number of requests.
"""
