"""Families of variants that are trained here, on labelled rows: `proteus task`.

*Arrays* (`arrays`) are read and checked, and a part of the rows of each class is held out, on which no variant is ever
trained: the eval split of the family. The *ladder* (`ladder`) names the kinds of models, of rising cost. They are
trained in a process of their own (`fitting`), as a user's own command would be (`processes`): in a process group that
is ended whole, at low priority, within limits of time and memory. It writes ``NAME.onnx`` for each into a directory.
`adding` measures them, keeps the frontier, and puts them into the workspace, the catalog last. `retraining` makes new
versions, also by a user's own command, and puts those into the catalog that are as accurate as the earlier ones.
"""
