"""The settings of `proteus serve`."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proteus_cli.domain.base import Fraction
from proteus_cli.errors import UsageError
from proteus_cli.serving.logs import LogFormat, LogLevel
from proteus_cli.settings import Setting, duration, path, share, size, without_unit
from proteus_cli.units import format_size, parse_sizes
from proteus_cli.urls import authority_host

MIN_SAMPLES_BYTES = 32 * 2**20
"""A file of samples may be that large."""

Port = Annotated[int, Meta(ge=0, le=65535)]
FLEET = (
    "devices, such as `cpu:20,v100:10`; on hosts: `'a=cpu:4,v100:1;b=cpu:4'`. TYPE is that of a profiled device, or "
    "its id."
)
CLUSTER = Setting(
    "The hosts of a cluster, each with an agent: a hosts.toml, kubernetes:SERVICE[:PORT], ray://HOST:PORT, or auto: "
    "the cluster of Ray that this machine is part of.",
    "HOSTS",
)
CLUSTER_KEY = path(
    "The key of the cluster, which `proteus cluster key` makes.",
    unset="the one that hosts.toml names; for Ray cluster.pem in the workspace",
)
ATTAINMENT = share(
    "The share of each family's requests that must be answered in time, such as `99.9%`.",
    unset="as the plan or the catalog says",
)


def _parse_hosts(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not authority_host(name):
            raise UsageError(f"`{name}` is not the name of a host.", hint="write it without scheme and path")
    return names


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, rename=without_unit):
    """How a plan is served. `make_settings` reads it, and the server uses it as it is. Raises `UsageError`."""

    host: Annotated[str, Setting("The address to listen on.", "ADDRESS")] = "127.0.0.1"
    port: Annotated[Port, Setting("The HTTP port; 0 picks a free one.", "PORT")] = 8000
    grpc_port: Annotated[Port | None, Setting("The gRPC port; 0 picks a free one.", "PORT", unset="no gRPC")] = None
    view: Annotated[
        Literal["auto", "live", "plain"],
        Setting(
            "The output on stdout: families and devices, live, or only the ready line (plain). auto: live if it is a "
            "terminal, without -q."
        ),
    ] = "auto"
    log_level: Annotated[
        LogLevel | None,
        Setting(
            "The lowest level that is logged; debug has a line for each batch.",
            unset="info; debug with -v, warning with -q",
        ),
    ] = None
    log_format: Annotated[LogFormat, Setting("The format of the log on stderr.")] = LogFormat.TEXT

    # requests
    max_body_bytes: Annotated[int, size("The largest request body.")] = 64 * 2**20
    non_finite: Annotated[
        Literal["pass", "refuse"],
        Setting("Serve requests and answers with NaN or infinity (pass), or make them errors (refuse)."),
    ] = "pass"
    max_connections: Annotated[
        int,
        Meta(ge=1),
        Setting(
            "The most connections at a time, of HTTP and of gRPC each; one client address has three quarters of "
            "them. Further ones may only ask for health and metrics.",
            "N",
        ),
    ] = 4096
    max_timeout_s: Annotated[
        float,
        duration(
            "The longest time that a request may wait. A longer `timeout`, or gRPC deadline, is cut to this; an SLO "
            "is not."
        ),
    ] = 60.0
    drain_timeout_s: Annotated[float, duration("The longest time that draining may take.")] = 10.0

    # security
    tls_cert: Annotated[Path | None, path("Speak only TLS, with this certificate (PEM).")] = None
    tls_key: Annotated[Path | None, path("The private key of the certificate (PEM).")] = None
    auth_tokens: Annotated[
        Path | None, path("Require one of the bearer tokens in this file: one per line, with # comments.")
    ] = None
    allowed_hosts: Annotated[
        tuple[str, ...],
        Setting(
            "Host names by which clients may call a server without tokens, such as `proteus.example`; `*`: any.",
            "NAME,…",
            parse=_parse_hosts,
            unset="this machine",
        ),
    ] = ()

    # adaptation
    attainment: Annotated[float | None, ATTAINMENT] = None
    replan: Annotated[
        str,
        Setting(
            "When to re-plan: never, at this interval, or when the plan no longer fits the demand.",
            "off|period=10s|auto",
            complete=("off", "period=10s", "auto"),
        ),
    ] = "auto"
    strict: Annotated[
        bool,
        Setting(
            "Don't start where a model, an eval split or an accuracy is not the one that was measured. Otherwise the "
            "server starts without such variants."
        ),
    ] = False
    resume: Annotated[
        bool,
        Setting(
            "If the last server with this plan was killed, continue with the plan that was in force then. Live "
            "conditions continue, too."
        ),
    ] = True
    plan_history: Annotated[
        int, Meta(ge=0), Setting("The number of plans that were in force to keep in plans/history/.", "N")
    ] = 1000
    state: Annotated[
        Path | None,
        Setting(
            "The directory to write plans/history/, engines/built/ and samples/ to. The workspace may then be "
            "read-only.",
            "DIR",
            parse=Path,
            unset="the workspace",
        ),
    ] = None
    max_unavailable: Annotated[
        Fraction,
        Setting(
            "The largest part of a family's capacity that may be unavailable during a plan change, while devices "
            "without memory for two variants unload one and load the next.",
            "FRACTION",
        ),
    ] = 0.5
    drift_after_s: Annotated[
        float,
        duration("Recalibrate a profile when measured times have differed from it by 20 % for this long; `0s`: never."),
    ] = 60.0
    record: Annotated[bool, Setting("Write recalibrated profiles, and accuracies by feedback, back to profiles/.")] = (
        False
    )
    feedback_s: Annotated[
        float,
        duration(
            "Keep answers to requests with an id for this long, so that clients can send their labels; `0s`: none."
        ),
    ] = 0.0
    shifts: Annotated[
        bool,
        Setting("Compare some requests and answers with the eval splits, and report where they are no longer alike."),
    ] = True
    fixed_slots: Annotated[
        bool,
        Setting(
            "Have devices of several slots (GPUs) always use all slots of their profile. Otherwise they use as many "
            "as measurements while serving justify."
        ),
    ] = False
    watch: Annotated[bool, Setting("Read the catalog again where it or one of its models changes.")] = False
    catalog_budget_s: Annotated[
        float,
        duration(
            "The time to measure on each CPU what is new in the catalog, beside what it serves and at the lowest "
            "priority; `0s`: plans do without what has no profile."
        ),
    ] = 60.0

    # samples
    samples: Annotated[
        float | None,
        share(
            "Capture the inputs of this share of all requests, such as `1%`, and their answers, in samples/.",
            unset="none",
        ),
    ] = None
    samples_space_bytes: Annotated[int, size("The space that samples may take; the oldest go first.")] = 2**30
    samples_for_s: Annotated[float, duration("How long samples are kept.")] = 7 * 86400.0

    # devices
    executor: Annotated[
        Literal["thread", "process"],
        Setting("What runs the batches of a CPU: a thread of the server, or a process. A GPU always has a process."),
    ] = "thread"
    batching: Annotated[
        str | None,
        Setting(
            "The batching rule: greedy launches what waits; proactive waits for more while the SLO allows; aimd; "
            "nexus; static-N.",
            "RULE",
            unset="greedy",
            complete=("greedy", "proactive", "aimd", "nexus", "static-8"),
        ),
    ] = None
    memory: Annotated[
        dict[str, int] | None,
        Setting(
            "The memory of each device that variants may take, such as `4GiB`, or by id or type `gpu0=8GiB,cpu=0B`. "
            "Memory that the plan leaves keeps standbys: variants that later plans may want, loaded.",
            "SIZE|DEVICE=SIZE,…",
            parse=parse_sizes,
            unset="half of each device's memory",
        ),
    ] = None
    emulate: Annotated[
        bool,
        Setting("Emulate the devices: batches take the profiled times, and answers are made up. Needs no models."),
    ] = False
    fleet: Annotated[
        str | None, Setting(f"With --emulate: the {FLEET}", "TYPE:COUNT,…", unset="the devices of the plan")
    ] = None
    cluster: Annotated[str | None, CLUSTER] = None
    cluster_key: Annotated[Path | None, CLUSTER_KEY] = None
    join: Annotated[
        bool,
        Setting(
            "With a cluster: also serve with devices of its hosts that the plan does not have, and with hosts that "
            "come later; otherwise only with the devices of the plan."
        ),
    ] = True
    join_budget_s: Annotated[
        float,
        duration(
            "With a cluster: the time to measure each device without a profile before it joins; `0s`: such devices "
            "stay out."
        ),
    ] = 60.0

    # traces
    otlp: Annotated[
        str | None,
        Setting("Send traces to this collector (OTLP over HTTP), such as `http://127.0.0.1:4318`.", "URL"),
    ] = None
    otlp_sample: Annotated[
        Fraction,
        Setting("The fraction of the requests to trace whose `traceparent` does not decide it.", "FRACTION"),
    ] = 0.01

    def __post_init__(self) -> None:
        wrong = (
            (self.feedback_s and self.emulate, "Emulated devices give no answers that could be right.",
             "leave out `--feedback` or `--emulate`"),
            (self.feedback_s and self.auth_tokens is None, "Labels are taken only from clients with a token.",
             "add `--auth-tokens FILE`"),
            (self.samples is not None and self.emulate, "Emulated devices give no answers that could be kept.",
             "leave out `--set samples` or `--emulate`"),
            (self.samples_space_bytes < MIN_SAMPLES_BYTES,
             f"`samples-space` must be {format_size(MIN_SAMPLES_BYTES)} at least.",
             "a file of samples may be that large"),
            (self.record and self.state is not None,
             "`record` writes to the workspace, which `state` leaves as it is.", "leave out one of both"),
            (self.record and self.emulate, "Emulated devices measure nothing that could be recorded.",
             "leave out `--set record` or `--emulate`"),
            (self.fleet is not None and not self.emulate, "`--fleet` is for devices that are emulated.",
             "add `--emulate`, or leave out `--fleet`"),
            (self.record and not self.drift_after_s and not self.feedback_s,
             "`drift-after=0s` leaves nothing to record.", "leave out one of both, or add `--feedback 1h`"),
            ((self.tls_cert is None) != (self.tls_key is None), "`--tls-cert` and `--tls-key` go together.",
             "give both, or neither"),
        )  # fmt: skip
        for is_wrong, message, hint in wrong:
            if is_wrong:
                raise UsageError(message, hint=hint)
