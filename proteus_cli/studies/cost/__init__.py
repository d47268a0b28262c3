"""`proteus study cost`: the cost of a million queries at a percentile of the latency within the SLO.

Theory of operation. A *scope* limits a fleet: a number of devices of one type, or of all types. For each scope two
*usages* are compared: *dedicated*, where a device serves one variant, and *shared*, where it may hold several. These
cost each other time as measured (`domain.interference`).

For one scope and usage, `search.py` looks for the cheapest fleet. The planner minimises the cost of serving a multiple
of the demand in the trace's busiest seconds. It is exact, so no cheaper fleet carries that demand in the mean. The
percentile depends on scatter, so the simulator replays the trace on the plan, with batch times that scatter as
profiled. After too many misses the search plans for a larger multiple, else for a smaller one, until both bounds are
alike. A plan that costs no less than the best one is not simulated, and at most `MAX_TRIED` plans are.

The cost counts the devices in use for the length of the trace, divided by the queries that were answered in time.
"""
