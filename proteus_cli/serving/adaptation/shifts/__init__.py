"""Shifts: rows that come are compared with the eval split, as labels may never come. A shift is told; nothing is done.

Of each family, one request at a time is looked at, once its answer has gone out, and at most every `EVERY_S`. One of
its rows is enough, as rows of a request are alike. `summaries` makes a few numbers of the row's inputs, to be compared
with those of the rows of the eval split. The confidence of a whole answer of one variant is compared with those that
`proteus profile` has kept of that variant (`references`). `control/alarms.py` decides.
"""
