"""A device in a process of its own, so that it cannot take the server down, nor hold its GIL.

`executor` is the server's side and `child` the process. They send each other `messages` over a `channel`; tensors lie
in `shared_memory`, as `layout` says.
"""
