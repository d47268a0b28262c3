"""Which cascades a family's variants make, and what each is worth: pure functions of what the variants answered.

Of each ordered pair of variants, the first less accurate and faster than the second, thresholds are *chosen* without
labels: quantiles of the first variant's confidence (`choosing.py`). Each is *judged* on all rows (`judging.py`): how
many are deferred, how accurate the composition is, and whether a random choice of as many rows to defer could have done
as well. That is what a plan does that shares queries between the two variants. Pairs that are better, with thresholds
on the concave hull of (deferred, accuracy), stand in the profile (`pairs.py`, `hull.py`). What variants answered is
kept while it is current (`collected.py`); `options.py` counts what a device carries with cascades.
"""
