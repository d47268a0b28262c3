"""Samples of requests, captured while serving: a share of them, with what was answered, to disk.

`SampleCapture` stands beside admission. It draws beforehand which request comes next: the others cost one comparison.
It keeps the inputs of a chosen one until the answer is out. `SampleWriter` takes both, and its thread writes files of
many requests (`store/samples/`). Samples beyond its memory are dropped and counted; no request ever waits. Labels that
clients tell of captured requests go the same way.
"""
