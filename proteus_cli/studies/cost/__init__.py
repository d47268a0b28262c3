"""`proteus study cost`: what a million queries cost at a percentile of the latency within the SLO.

Theory of operation. A *scope* is what a fleet may be made of: up to so many devices of one type, or of all types. For
each scope two *usages* are compared: *dedicated*, where a device serves one variant, and *shared*, where it may hold
several, at what these cost each other as measured (`domain.batch_times`).

For one scope and usage the cheapest fleet is searched for (`search.py`). The planner, told to serve all at the least
cost, picks counts of devices for a multiple of the demand of the trace's busiest seconds; it is exact, so no fleet of
less cost carries that in the mean. Whether the percentile holds is a matter of scatter, which the simulator tells
(`search.py`): the trace is replayed on the plan, with batch times that scatter as profiled. Too many misses, and a
larger multiple is planned for; else a smaller one, until the multiples on both sides are alike. What would cost no less
than the best so far is not simulated; at most `MAX_TRIED` plans are, so the work is bounded.

Costs are those of devices in use, for as long as the trace, by the queries that were answered in time.
"""
