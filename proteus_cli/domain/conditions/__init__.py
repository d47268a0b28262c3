"""Conditions: when a query needs no further exit of its variant, as a text, a value, and an answer by row.

::

    confidence >= 0.8 or latency >= 30ms and exit >= 2

    condition   = conjunction { "or" conjunction }
    conjunction = operand { "and" operand }                 so `and` binds tighter than `or`
    operand     = metric operator quantity | "(" condition ")"
    operator    = "<" | "<=" | "==" | ">" | ">="

`metrics.py` has the table of metrics with their units, `condition.py` the values that a text stands for and how they
are evaluated, `parser.py` reads a text, token by token (`reading.py`), `reach.py` tells whether a condition can hold,
and whether it can fail. No text is ever run as code. Its length, its comparisons and its depth are bounded, so that to
read it and to evaluate it is.

A condition is a value: equal ones evaluate alike, and ``parse(str(condition)) == condition``. All numbers are compared
as 64-bit floats, in base units. What is NaN, as the confidence of a row without two scores, fulfils no comparison.
"""
