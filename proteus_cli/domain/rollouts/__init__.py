"""Version roll-outs: their specification, the terms of their guard, and their status.

A *version roll-out* brings a new version of a variant into service by steps, in which it answers a growing share of the
queries. The test of a guard is in `control/rollouts/`.
"""
