"""The server's side of one connection: `connecting` begins it, `session` is it, an `executor` has a device over it.

A session sends models (`uploads`), measures the way to the host (`round_trips`, `crossings`), and ends when the host
shows no `signs_of_life`; `looks` says when a server looks at its sessions, and pings.
"""
