"""The server's side of one connection: `connecting` begins it, `session` is it, an `executor` has a device over it.

A session sends models (`uploads`), and measures the way to the host (`round_trips`, `crossings`). It ends when the host
gives no sign of life; `looks` is the timer with which a server checks its sessions, and pings.
"""
