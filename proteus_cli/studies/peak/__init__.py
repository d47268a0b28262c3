"""`proteus study peak`: the highest rate of requests that is carried within the SLO.

Theory. Requests arrive at random (Poisson), at a rate, whether or not earlier ones were answered (open loop). v(rate)
is the fraction of requests that miss their SLO in the long run: answered late, dropped, rejected or failed. It rises
with the rate, and steeply near the peak: the highest rate with v at most `PeakRules.allowed_frac`.

A *stretch* is some requests at one rate, behind a warm-up that does not count. Violations come in clumps, as a queue is
long for a while. Counts of neighbouring windows tell the size of clumps (`fit.py`), and requests count as that many
fewer everywhere below.

The search (`search.py`) first brackets the peak by short probes. A rate that seems to be carried is left at once for a
higher one. A rate that misses too much gets twice as many requests until a sequential test is sure, and the next rate
is lower. Only rates that are surely carried or violated are reported as bounds. Then the search refines: stretches of
fixed length follow just below and just above the estimated peak. A line is fitted to them, the log odds of a violation
against the log rate (`fit.py`), and gives the interval of the peak. The search ends when the interval is narrow enough,
or when the time is over. Stretches of the bracket are not in the fit: they ended on an extreme, and exaggerate.

A *carrier* takes the requests (`carriers.py`): the simulator, a local server with real or emulated devices, or any
server of the protocol. The search only asks for a rate and a number of requests.
"""
