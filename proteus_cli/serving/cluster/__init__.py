"""Who lists the hosts of a cluster, and who starts the agents there.

Each list is a `HostList` of `serving/devices/remote/host_list.py`, which the server follows:

* `hosts_file.HostsFile`: a `hosts.toml`. People start the agents, or systemd does.
* `kubernetes.KubernetesService`: the pods behind a headless service. A DaemonSet starts the agents.

A list says where agents are. Whether one is alive, the channel to it says (`serving/devices/remote`).
"""
