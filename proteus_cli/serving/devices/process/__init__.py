"""Devices in processes of their own: `executor` is the server's side, `child` the other, `wire` what they say."""
