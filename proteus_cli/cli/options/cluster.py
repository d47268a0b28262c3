"""Options of commands that deal with a cluster."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.options import sections
from proteus_cli.cli.options.common import SIZE
from proteus_cli.cli.options.names import environment

Cluster = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        envvar=environment("cluster"),
        help="A hosts.toml: the hosts of a cluster, each with an agent.",
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
NewKey = Annotated[Path, Argument(metavar="FILE", help="The file to make.")]
