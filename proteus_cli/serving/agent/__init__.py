"""The agent of a host: has its devices open, keeps models by digest, and runs what a server commands.

`agent` accepts servers; `session` obeys one, and `sharing` says whose batch is next; `models` keeps what they send.
Devices run in processes of their own (`serving/devices/process`), so that the agent's event loop always answers. The
theory of the channel stands in `serving/devices/remote`.
"""
