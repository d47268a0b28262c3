"""How well the multi-exit model of the sample zoo keeps random bounds on its latency."""
