"""A device in a process of its own, so that it cannot take the server down, nor hold its GIL.

`client` is the server's side of the protocol (`messages`), `device_server` the device's; both are the same over a
network. On this machine, `executor` is such a client, whose process (`starting`, `child`) is reached over a `channel`;
tensors lie in `shared_memory`, as `layout` says.
"""
