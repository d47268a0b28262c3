"""Families of variants that are trained here, on labelled rows: `proteus task`.

*Arrays* (`arrays`) are read and checked. A part of the rows of each class is held out, and no variant is ever trained
on it: the eval split of the family. The *ladder* (`recipes`) names the kinds of models, of rising cost. They are
trained in a process (`fitting`), as a user's own command is (`processes`): in a process group that is ended whole, at
low priority, within limits of time and memory. It writes ``NAME.onnx`` for each into a directory. `adding` measures
them, keeps the frontier, and puts them into the workspace, the catalog last. `retraining` makes new versions, also by a
user's own command, and puts those into the catalog that are as accurate as the earlier ones.
"""
