"""Shifts: rows that come are compared with the eval split, as labels may never come; it is told, and nothing is done.

Of each family, one request at a time is looked at, at most every `EVERY_S`, once its answer has gone out: one of its
rows, as rows of a request are alike. `summaries` makes a few numbers of the inputs, of which the rows of the eval split
have the same; the confidence of a whole answer of one variant is compared with those that `proteus profile` has kept of
that variant (`references`). `control/shift.py` decides.
"""
