"""The agent of a host: keeps models by digest, starts the processes of its devices, and hands connections to them.

`door` accepts connections, `agent` welcomes servers, and `session` obeys one of them. `hosted_device` is a device that
a server has open; `sharing` decides whose batch is next on a device with several servers. `models` keeps models. The
theory of the connections stands in `serving/devices/remote`.
"""
