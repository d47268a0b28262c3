"""Samples of requests, captured while serving: a share of them, with what was answered, to disk.

`SampleCapture` stands beside admission. It draws beforehand which request comes next: the others cost one comparison.
Of a chosen one it keeps the inputs until the answer is out, and then hands both to `SampleWriter`, whose thread writes
files of many requests (`store/samples/`). What does not fit into the memory for that is dropped and counted; no request
ever waits. Labels that clients tell of captured requests go the same way.
"""
