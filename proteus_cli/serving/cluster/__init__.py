"""Who lists the hosts of a cluster, and who starts the agents there.

Each list is a `HostList` of `serving/devices/remote/channel/address.py`, which the server follows:

* `hosts_file.HostsFile`: a `hosts.toml`. People start the agents, or systemd does.
* `ray_nodes.RayNodes`: the nodes of a Ray cluster. Ray starts the agents: an actor on each node keeps one
  (`agent_keeper`), and a process beside the server (`ray_follower`) places the actors and says where the agents are.
* `kubernetes.KubernetesService`: the pods behind a headless service. A DaemonSet starts the agents.

A list says where agents are. Whether one is alive, the channel to it says (`serving/devices/remote`).
"""
