"""Options of `proteus serve`."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.names import environment
from proteus_cli.cli.options.common import DURATION, SIZE
from proteus_cli.serving import logs
from proteus_cli.units import parse_share

_devices = partial(Option, rich_help_panel=sections.DEVICES)
_request = partial(Option, rich_help_panel=sections.REQUESTS)
_security = partial(Option, rich_help_panel=sections.SECURITY)
_adaptation = partial(Option, rich_help_panel=sections.ADAPTATION)
_samples = partial(Option, rich_help_panel=sections.SAMPLES)
_trace = partial(Option, rich_help_panel=sections.TRACES)


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


Plan = Annotated[
    Path,
    Argument(
        metavar="PLAN",
        autocompletion=completion.plans,
        help="The plan to start with: a path, or a name in plans/.",
    ),
]

# --- network

Host = Annotated[str, Option(metavar="ADDRESS", envvar=environment("host"), help="The address to listen on.")]
Port = Annotated[
    int,
    Option(min=0, max=65535, metavar="PORT", envvar=environment("port"), help="The HTTP port; 0 picks a free one."),
]
GrpcPort = Annotated[
    int | None,
    Option(
        min=0,
        max=65535,
        metavar="PORT",
        envvar=environment("grpc_port"),
        show_default="no gRPC",
        help="The gRPC port; 0 picks a free one.",
    ),
]
MaxBody = Annotated[float, _request(**SIZE, help="The largest request body that is accepted.")]
NonFinite = Annotated[
    NonFinitePolicy,
    _request(
        envvar=environment("non_finite"),
        help="Serve requests and answers with NaN or infinity (pass), or make them errors (refuse).",
    ),
]
MaxConnections = Annotated[
    int,
    _request(
        min=1,
        metavar="N",
        help="The most connections at a time, of HTTP and of gRPC each; one client address has three quarters of them. "
        "Further ones may only ask for health and metrics.",
    ),
]
MaxTimeout = Annotated[
    float,
    _request(
        **DURATION,
        help="The longest time that a request may wait. A longer `timeout`, or gRPC deadline, is cut to this; "
        "an SLO is not.",
    ),
]
TlsCert = Annotated[Path | None, _security(metavar="FILE", help="Speak only TLS, with this certificate (PEM).")]
TlsKey = Annotated[Path | None, _security(metavar="FILE", help="The private key of the certificate (PEM).")]
AuthTokens = Annotated[
    Path | None,
    _security(metavar="FILE", help="Require one of the bearer tokens in this file: one per line, with # comments."),
]
AllowedHosts = Annotated[
    str,
    _security(
        metavar="NAME,…",
        envvar=environment("allowed_hosts"),
        show_default="this machine",
        help="Host names by which clients may call a server without tokens, such as `proteus.example`; `*`: any.",
    ),
]
DrainTimeout = Annotated[float, _request(**DURATION, help="The longest time that draining may take.")]

# --- adaptation

Replan = Annotated[
    str,
    _adaptation(
        metavar="off|period=10s|auto",
        autocompletion=completion.one_of("off", "period=10s", "auto"),
        envvar=environment("replan"),
        help="When to re-plan: never, at this interval, or when the plan no longer fits the demand.",
    ),
]
Strict = Annotated[
    bool,
    Option(
        "--strict",
        help="Don't start where a model, an eval split or an accuracy is not the one that was measured. Else the "
        "server starts without such variants.",
    ),
]
Resume = Annotated[
    bool,
    _adaptation(
        "--resume/--no-resume",
        help="If the last server with this plan was killed, continue with the plan that was in force then. "
        "And keep live conditions: go by those of before.",
    ),
]
PlanHistory = Annotated[
    int, _adaptation(min=0, metavar="N", help="How many of the plans that were in force to keep in plans/history/.")
]
State = Annotated[
    Path | None,
    _adaptation(
        metavar="DIR",
        envvar=environment("state"),
        show_default="the workspace",
        help="The directory to write plans/history/, engines/built/ and samples/ to. The workspace may then be "
        "read-only.",
    ),
]
MaxUnavailable = Annotated[
    float,
    _adaptation(
        min=0,
        max=1,
        metavar="FRACTION",
        help="The largest part of a family's capacity that may be unavailable during a plan change, while devices "
        "without memory for two variants unload one and load the next.",
    ),
]
DriftAfter = Annotated[
    float,
    _adaptation(
        **DURATION,
        help="Recalibrate a profile when measured times have differed from it by 20 % for this long; `0s`: never.",
    ),
]
Feedback = Annotated[
    float,
    _adaptation(
        **DURATION,
        envvar=environment("feedback"),
        help="Keep answers to requests with an id for this long, so that clients can tell their labels; `0s`: none.",
    ),
]
Shifts = Annotated[
    bool,
    _adaptation(
        "--shifts/--no-shifts",
        help="Compare some of what is asked and answered with the eval splits, and tell where it is no longer alike.",
    ),
]
FixedSlots = Annotated[
    bool,
    _adaptation(
        "--fixed-slots",
        help="Have devices of several slots (GPUs) always use all slots of their profile. Else they use as many as are "
        "worth it by what is measured while they serve.",
    ),
]
Samples = Annotated[
    float | None,
    _samples(
        parser=parse_share,
        metavar="SHARE",
        envvar=environment("samples"),
        show_default="none",
        help="Capture the inputs of this share of all requests, such as `1%`, and what was answered, in samples/.",
    ),
]
SamplesSpace = Annotated[
    float,
    _samples(**SIZE, envvar=environment("samples_space"), help="The space that samples may take; the oldest go first."),
]
SamplesFor = Annotated[
    float, _samples(**DURATION, envvar=environment("samples_for"), help="How long samples are kept.")
]
Watch = Annotated[
    bool, _adaptation("--watch", help="Read the catalog anew where it changes, or one of the models that it names.")
]
CatalogBudget = Annotated[
    float,
    _adaptation(
        **DURATION,
        envvar=environment("catalog_budget"),
        help="The time to measure on each CPU what is new in the catalog, beside what it serves and at the lowest "
        "priority; `0s`: plans do without what has no profile.",
    ),
]
Record = Annotated[
    bool, _adaptation("--record", help="Write recalibrated profiles, and accuracies by feedback, back to profiles/.")
]

# --- devices

Executor = Annotated[
    ExecutorKind,
    _devices(
        envvar=environment("executor"),
        help="What runs the batches of a CPU: a thread of the server, or a process. A GPU always has a process.",
    ),
]
Batching = Annotated[
    str | None,
    _devices(
        metavar="RULE",
        autocompletion=completion.one_of(*completion.BATCHING),
        show_default="greedy",
        help="The batching rule: greedy launches what waits; proactive waits for more while the SLO allows; aimd; "
        "nexus; static-N.",
    ),
]
Emulate = Annotated[
    bool,
    _devices(
        "--emulate",
        help="Emulate the devices: batches take the profiled times, and answers are made up. Needs no models.",
    ),
]
Fleet = Annotated[
    str | None,
    _devices(
        metavar="TYPE:COUNT,…",
        autocompletion=completion.fleets,
        show_default="those of the plan",
        help="With --emulate: the devices, such as `cpu:20,v100:10`; on hosts: `'a=cpu:4,v100:1;b=cpu:4'`. TYPE is "
        "that of a profiled device, or its id.",
    ),
]

# --- monitoring

View = Annotated[
    ViewMode,
    Option(
        envvar=environment("view"),
        help="What stdout shows: families and devices, live, or only the ready line (plain). auto: live if it is a "
        "terminal, without -q.",
    ),
]
LogFormat = Annotated[logs.LogFormat, Option(envvar=environment("log_format"), help="The format of the log on stderr.")]
LogLevel = Annotated[
    logs.LogLevel | None,
    Option(
        envvar=environment("log_level"),
        show_default="info; debug with -v, warning with -q",
        help="What to log; debug has a line for each batch.",
    ),
]
Otlp = Annotated[
    str | None,
    _trace(
        metavar="URL",
        envvar=environment("otlp"),
        help="Send traces to this collector (OTLP over HTTP), such as `http://127.0.0.1:4318`.",
    ),
]
OtlpSample = Annotated[
    float,
    _trace(
        min=0,
        max=1,
        metavar="FRACTION",
        envvar=environment("otlp_sample"),
        help="The fraction of requests to trace, of those whose `traceparent` does not decide it.",
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
