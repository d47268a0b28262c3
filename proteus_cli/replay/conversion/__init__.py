"""Traces in other formats, converted to ours in a stream, in memory that does not grow with the source.

A source goes through these modules in this order; `convert` puts them together.

* `source`: a file or stdin is a table of text cells, CSV or JSON lines.
* `formats`: what the columns of each known format mean.
* `families`: which family a row belongs to.
* `arrivals`: rows become chunks of arrival records, in the order of the source.
* `external_sort`: chunks are sorted by time; a temporary file holds 60 bytes for each arrival.
* `stream`: sorted blocks are cut to a window, sped up, scaled, and written as CSV.
"""
