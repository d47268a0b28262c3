"""The server's side of one connection: `connecting` begins it, `session` is it, an `executor` has a device over it.

A session sends models (`uploads`), measures the way to the host (`round_trips`, `crossings`), and ends when the host
gives no sign of life; `looks` is the timer of a server that looks at its sessions, and pings.
"""
