"""Options of `proteus serve`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.options.common import DURATION, SIZE
from proteus_cli.cli.options.names import environment
from proteus_cli.serving import logs

_NETWORK, _ADAPTATION, _DEVICES, _MONITORING = "Network", "Adaptation", "Devices", "Monitoring"


class ViewMode(StrEnum):
    """What stdout shows."""

    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"


class NonFinitePolicy(StrEnum):
    """What happens to requests with NaN or infinity."""

    PASS = "pass"  # noqa: S105 - no password
    REFUSE = "refuse"


class ExecutorKind(StrEnum):
    """What runs the batches of a device that is no GPU."""

    THREAD = "thread"
    PROCESS = "process"


Plan = Annotated[Path, Argument(help="The plan to start with: a path, or a name in plans/.")]

# --- network

Host = Annotated[str, Option(envvar=environment("host"), rich_help_panel=_NETWORK, help="The address to listen on.")]
Port = Annotated[
    int,
    Option(
        min=0, max=65535, envvar=environment("port"), rich_help_panel=_NETWORK,
        help="The HTTP port; 0 picks a free one.",
    ),
]  # fmt: skip
GrpcPort = Annotated[
    int | None,
    Option(
        min=0, max=65535, envvar=environment("grpc_port"), show_default="no gRPC", rich_help_panel=_NETWORK,
        help="The gRPC port; 0 picks a free one.",
    ),
]  # fmt: skip
MaxBody = Annotated[float, Option(**SIZE, rich_help_panel=_NETWORK, help="The largest request body that is accepted.")]
NonFinite = Annotated[
    NonFinitePolicy,
    Option(
        envvar=environment("non_finite"), rich_help_panel=_NETWORK,
        help="Serve requests and answers with NaN or infinity (pass), or make them errors (refuse).",
    ),
]  # fmt: skip
MaxConnections = Annotated[
    int,
    Option(min=1, rich_help_panel=_NETWORK, help="The most connections at a time; further ones are answered 503."),
]
TlsCert = Annotated[
    Path | None,
    Option(metavar="FILE", rich_help_panel=_NETWORK, help="Speak only TLS, with this certificate (PEM)."),
]
TlsKey = Annotated[
    Path | None, Option(metavar="FILE", rich_help_panel=_NETWORK, help="The private key of the certificate (PEM).")
]
AuthTokens = Annotated[
    Path | None,
    Option(
        metavar="FILE", rich_help_panel=_NETWORK,
        help="Require one of the bearer tokens in this file: one per line, with # comments.",
    ),
]  # fmt: skip
DrainTimeout = Annotated[
    float, Option(**DURATION, rich_help_panel=_NETWORK, help="The longest time that draining may take.")
]

# --- adaptation

Replan = Annotated[
    str,
    Option(
        metavar="off|period=10s|auto", envvar=environment("replan"), rich_help_panel=_ADAPTATION,
        help="When to re-plan: never, at this interval, or when the plan no longer fits the demand.",
    ),
]  # fmt: skip
Resume = Annotated[
    bool,
    Option(
        "--resume/--no-resume", rich_help_panel=_ADAPTATION,
        help="If the last server with this plan was killed, continue with the plan that was in force then.",
    ),
]  # fmt: skip
PlanHistory = Annotated[
    int,
    Option(
        min=0, metavar="N", rich_help_panel=_ADAPTATION,
        help="How many of the plans that were in force to keep in plans/history/.",
    ),
]  # fmt: skip
MaxUnavailable = Annotated[
    float,
    Option(
        min=0, max=1, metavar="FRACTION", rich_help_panel=_ADAPTATION,
        help="The largest part of a family's capacity that may be unavailable during a roll-out, while devices "
        "without memory for two variants unload one and load the next.",
    ),
]  # fmt: skip
DriftAfter = Annotated[
    float,
    Option(
        **DURATION, rich_help_panel=_ADAPTATION,
        help="Recalibrate a profile when measured times have differed from it by 20 % for this long; `0s`: never.",
    ),
]  # fmt: skip
Record = Annotated[
    bool, Option("--record", rich_help_panel=_ADAPTATION, help="Write recalibrated profiles back to profiles/.")
]

# --- devices

Executor = Annotated[
    ExecutorKind,
    Option(
        envvar=environment("executor"), rich_help_panel=_DEVICES,
        help="What runs the batches of a CPU: a thread of the server, or a process. A GPU always has a process.",
    ),
]  # fmt: skip
Batching = Annotated[
    str | None,
    Option(
        show_default="greedy", rich_help_panel=_DEVICES,
        help="The batching rule: greedy launches what waits; proteus waits for more while the SLO allows; aimd; "
        "nexus; static-N.",
    ),
]  # fmt: skip
Emulate = Annotated[
    bool,
    Option(
        "--emulate", rich_help_panel=_DEVICES,
        help="Emulate the devices: batches take the profiled times, and answers are made up. Needs no models.",
    ),
]  # fmt: skip
Fleet = Annotated[
    str | None,
    Option(
        metavar="TYPE:COUNT,…", show_default="those of the plan", rich_help_panel=_DEVICES,
        help="With --emulate: the devices, such as `cpu:20,v100:10`. TYPE is that of a profiled device, or its id.",
    ),
]  # fmt: skip

# --- monitoring

View = Annotated[
    ViewMode,
    Option(
        envvar=environment("view"), rich_help_panel=_MONITORING,
        help="What stdout shows: families and devices, live, or only the ready line (plain). auto: live if it is a "
        "terminal, without -q.",
    ),
]  # fmt: skip
LogFormat = Annotated[
    logs.LogFormat,
    Option(envvar=environment("log_format"), rich_help_panel=_MONITORING, help="The format of the log on stderr."),
]
LogLevel = Annotated[
    logs.LogLevel | None,
    Option(
        envvar=environment("log_level"), show_default="info; debug with -v, warning with -q",
        rich_help_panel=_MONITORING, help="What to log; debug has a line for each batch.",
    ),
]  # fmt: skip
Otlp = Annotated[
    str | None,
    Option(
        metavar="URL", envvar=environment("otlp"), rich_help_panel=_MONITORING,
        help="Send traces to this collector (OTLP over HTTP), such as `http://127.0.0.1:4318`.",
    ),
]  # fmt: skip
OtlpSample = Annotated[
    float,
    Option(
        min=0, max=1, envvar=environment("otlp_sample"), rich_help_panel=_MONITORING,
        help="The fraction of requests to trace, of those whose `traceparent` does not decide it.",
    ),
]  # fmt: skip
