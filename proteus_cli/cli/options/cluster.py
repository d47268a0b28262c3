"""Options of commands that deal with a cluster."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.command_line import sections
from proteus_cli.cli.command_line.names import environment
from proteus_cli.cli.options.common import DURATION, SIZE

Cluster = Annotated[
    str | None,
    Option(
        metavar="HOSTS",
        envvar=environment("cluster"),
        help="The hosts of a cluster, each with an agent: a hosts.toml, kubernetes:SERVICE[:PORT], "
        "ray://HOST:PORT, or auto: the cluster of Ray that this machine is part of.",
        rich_help_panel=sections.DEVICES,
    ),
]
ClusterKey = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        envvar=environment("cluster_key"),
        show_default="what hosts.toml names; for Ray cluster.pem in the workspace",
        help="The cluster's key, which `proteus cluster key` makes.",
        rich_help_panel=sections.SECURITY,
    ),
]
Join = Annotated[
    bool,
    Option(
        "--join/--no-join",
        help="With --cluster: also serve with devices of its hosts that the plan does not have, and with hosts that "
        "come later; or only with the devices of the plan.",
        rich_help_panel=sections.DEVICES,
    ),
]
JoinBudget = Annotated[
    float,
    Option(
        **DURATION,
        envvar=environment("join_budget"),
        help="With --cluster, the time to measure each device in that no profile is of, before it joins; `0s`: such "
        "devices stay out.",
        rich_help_panel=sections.DEVICES,
    ),
]
Listen = Annotated[
    str,
    Option(metavar="HOST:PORT", envvar=environment("listen"), help="Where to listen for servers; port 0 picks one."),
]
Key = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        envvar=environment("key"),
        show_default="none: servers of this machine only",
        help="The cluster's key, which `proteus cluster key` makes.",
        rich_help_panel=sections.SECURITY,
    ),
]
HostName = Annotated[
    str | None,
    Option(
        metavar="NAME",
        envvar=environment("name"),
        show_default="the machine's",
        help="The name of this host, for servers that find agents by address (Kubernetes).",
    ),
]
Keeper = Annotated[
    int | None,
    Option(
        metavar="PID",
        envvar=environment("keeper"),
        help="A process that keeps this agent: once that has ended, the agent ends when it has had no server for 10 s.",
    ),
]
AgentState = Annotated[
    Path,
    Option(
        metavar="DIR",
        envvar=environment("state"),
        help="The directory for models that servers send, and for engines that are built.",
    ),
]
AgentEmulates = Annotated[
    bool,
    Option(
        "--emulate",
        help="Have no devices, and emulate those of servers with `--emulate`.",
        rich_help_panel=sections.DEVICES,
    ),
]
CheckAgent = Annotated[
    bool,
    Option(
        "--check",
        help="Start none: ask the agent that has the `--state` whether it works. Exit code 4 where it does not answer, "
        "or there is none.",
    ),
]
MaxModelsSize = Annotated[
    int | None,
    Option(
        **SIZE,
        envvar=environment("max-models-size"),
        show_default="half of what the disk has for them",
        help="What models that servers send may take of the disk; those that were used least recently go first.",
        rich_help_panel=sections.LIMITS,
    ),
]
RayAddress = Annotated[
    str, Argument(metavar="CLUSTER", help="A cluster of Ray, as for `--cluster`: auto, or ray://HOST:PORT.")
]
NewKey = Annotated[Path, Argument(metavar="FILE", help="The file to make.")]
