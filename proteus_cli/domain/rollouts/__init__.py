"""Version roll-outs: what is asked for, the guard's language, and what is told of one.

A *version roll-out* brings a new version of a variant into service by steps, in which it answers a growing share of the
queries. `guard_terms.py` has the language of its guard::

    accuracy >= old - 0.005 and p99 <= slo and errors <= 1%

    guard    = term { "and" term }
    term     = ("accuracy" | "agreement") ">=" side | ("p50" | "p95" | "p99" | "errors") "<=" side
    side     = quantity | "slo" | "old" [ ("+" | "-") quantity ]

Only `p50`, `p95` and `p99` have an `slo`; only `accuracy` and `errors` can be compared with `old`. Everything else that
could be written is refused: there would be no sound test of it. `specification.py` has what a roll-out is started with,
`status.py` what is told of it. How a guard is tested is in `control/rollouts/`.
"""
