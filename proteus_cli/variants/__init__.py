"""Families and variants made of models that users bring: `proteus catalog add`, `split` and `derive`.

*Adding* reads what a model takes and gives, makes its batch dynamic, compares its tensors with those of its family, and
finds its accuracy: measured on an eval split, as stated, or else estimated. Until all of that is done, new files lie in
a directory of their own (`staging`); then they move into the workspace, the catalog last. So an error leaves the
workspace as it was.

*Splitting* cuts a model with several exits into the stages of a multi-exit model (`cutting`), and adds it at a few
operating points (`splitting`).

*Deriving* follows recipes (INT8, FP16, input sizes), each of which converts the file of a variant. What they make is
measured beside their parent (`measuring`), by the profiler's clock and in turn, so that noise of the machine meets all
alike. `judging` decides what is kept.
"""
