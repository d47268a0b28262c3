"""The agent of a host: has its devices open, keeps models by digest, and runs what a server commands.

`agent` accepts servers, one at a time; `session` obeys one; `models` keeps what it sends. Devices run in processes of
their own (`serving/devices/process`), so that the agent's event loop always answers. The theory of the channel stands
in `serving/devices/remote`.
"""
