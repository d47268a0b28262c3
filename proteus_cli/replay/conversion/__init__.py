"""Traces in other formats, converted to ours.

`convert` reads each source with these modules, in this order, and makes one trace of all arrivals.

* `source`: a file or stdin is a table of text cells, CSV or JSON lines.
* `formats`: the meaning of the columns of each known format.
* `families`: the family of each row.
* `arrivals`: rows become columns of numbers, one for each arrival.
"""
