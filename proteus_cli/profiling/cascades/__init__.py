"""Which cascades a family's variants make, and what each is worth: pure functions of what the variants answered.

Of each ordered pair of variants, the first less accurate and faster than the second, the rows of the eval split are
halved (`halves.py`). On one half thresholds are *chosen* (`choosing.py`): those on the concave hull of (deferred rows,
right answers). On the other half they are *judged* (`judging.py`): how many rows are deferred, how accurate the
composition is, and whether a random choice of as many rows to defer could have done as well. That is what a plan does
that shares queries between the two variants. What passes stands in the profile (`pairs.py`).
"""
