"""Families and variants made of models that users bring: `proteus catalog add` and `derive`.

*Adding* reads what a model takes and gives, makes its batch dynamic, compares its tensors with those of its family, and
finds its accuracy: measured on an eval split, as stated, or else estimated. Until all of that is done, new files lie in
a directory of their own (`staging`); then they move into the workspace, the catalog last. So an error leaves the
workspace as it was.
"""
