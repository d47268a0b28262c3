"""Options that several commands have."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.defaults import load_defaults
from proteus_cli.serving import logs
from proteus_cli.settings import environment
from proteus_cli.units import parse_duration, parse_rate, parse_share, parse_size, parse_sizes

DURATION: dict[str, Any] = {"parser": parse_duration, "metavar": "DURATION"}
RATE: dict[str, Any] = {"parser": parse_rate, "metavar": "RATE"}
SIZE: dict[str, Any] = {"parser": parse_size, "metavar": "SIZE"}


def unparsed(text: str) -> Any:
    """The default of an option with a unit, such as ``60s``: the option's parser reads it."""
    return text


WORKSPACE = Path()
HEADROOM = 1.2
POLICY = "proteus"

Workspace = Annotated[
    Path,
    Option(
        "--workspace",
        "-w",
        metavar="DIR",
        envvar=environment("workspace"),
        is_eager=True,
        callback=load_defaults,
        help="The directory that holds engines/, profiles/ and plans/.",
    ),
]
State = Annotated[
    Path | None,
    Option(
        metavar="DIR",
        envvar=environment("state"),
        show_default="the workspace",
        help="The directory that `proteus serve --set state=…` writes to.",
    ),
]
Json = Annotated[bool, Option("--json", help="Print one JSON document on stdout.")]
Headroom = Annotated[
    float,
    Option(
        min=1.0,
        metavar="FACTOR",
        envvar=environment("headroom"),
        help="Plan for this multiple of the demand.",
        rich_help_panel=sections.OBJECTIVES,
    ),
]
Memory = Annotated[
    dict[str, int] | None,
    Option(
        parser=parse_sizes,
        envvar=environment("memory"),
        metavar="SIZE|DEVICE=SIZE,…",
        show_default="half of each device's memory",
        help="The memory of each device that variants may take, such as `4GiB`, or by id or type `gpu0=8GiB,cpu=0B`. "
        "What the plan leaves of it keeps standbys: variants that later plans may want, loaded.",
        rich_help_panel=sections.DEVICES,
    ),
]
Attainment = Annotated[
    float | None,
    Option(
        parser=parse_share,
        metavar="SHARE",
        envvar=environment("attainment"),
        show_default="as the plan or the catalog says",
        help="The share of each family's requests that must be answered in time, such as `99.9%`.",
        rich_help_panel=sections.OBJECTIVES,
    ),
]
Fleet = Annotated[
    str | None,
    Option(
        envvar=environment("fleet"),
        metavar="TYPE:COUNT,…",
        autocompletion=completion.fleets,
        show_default="the profiled devices",
        help="Assume these devices, such as `cpu:20,v100:10`; on hosts: `'a=cpu:4,v100:1;b=cpu:4'`. TYPE is that of a "
        "profiled device, or its id.",
        rich_help_panel=sections.DEVICES,
    ),
]
HostOrDevice = Annotated[str, Argument(metavar="NAME", help="A host, such as `b`, or a device, such as `b/cpu0`.")]
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
Ca = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Trust servers whose certificate is signed by this certificate (PEM).",
        rich_help_panel=sections.SECURITY,
    ),
]
Trace = Annotated[Path, Argument(metavar="TRACE", help="The trace, a CSV file, gzipped or not.")]
LogLevel = Annotated[
    logs.LogLevel | None,
    Option(
        envvar=environment("log_level"),
        show_default="info; debug with -v, warning with -q",
        help="What to log; debug has a line for each batch.",
    ),
]
LogFormat = Annotated[logs.LogFormat, Option(envvar=environment("log_format"), help="The format of the log on stderr.")]
