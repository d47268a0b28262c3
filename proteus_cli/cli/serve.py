"""``proteus serve``: run a plan in the foreground."""

import os
import sys
from contextlib import nullcontext
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.defaults import flags, require_cluster
from proteus_cli.cli.command_line.names import environment
from proteus_cli.errors import UsageError
from proteus_cli.serving import logs
from proteus_cli.units import format_size, parse_share

if TYPE_CHECKING:
    from proteus_cli.cli.live_view import LiveView
    from proteus_cli.serving.transport.tls import ServerCertificate

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


MIN_SAMPLES_BYTES = 32 * 2**20


def serve(
    context: typer.Context,
    plan: Annotated[
        Path,
        Argument(
            metavar="PLAN",
            autocompletion=completion.plans,
            help="The plan to start with: a path, or a name in plans/.",
        ),
    ],
    *,
    port: Annotated[
        int,
        Option(min=0, max=65535, metavar="PORT", envvar=environment("port"), help="The HTTP port; 0 picks a free one."),
    ] = 8000,
    grpc_port: Annotated[
        int | None,
        Option(
            min=0,
            max=65535,
            metavar="PORT",
            envvar=environment("grpc_port"),
            show_default="no gRPC",
            help="The gRPC port; 0 picks a free one.",
        ),
    ] = None,
    host: Annotated[
        str, Option(metavar="ADDRESS", envvar=environment("host"), help="The address to listen on.")
    ] = "127.0.0.1",
    view: Annotated[
        ViewMode,
        Option(
            envvar=environment("view"),
            help="What stdout shows: families and devices, live, or only the ready line (plain). auto: live if it is a "
            "terminal, without -q.",
        ),
    ] = ViewMode.AUTO,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = logs.LogFormat.TEXT,
    max_body: Annotated[
        float, _request(**options.SIZE, help="The largest request body that is accepted.")
    ] = options.unparsed("64MiB"),
    non_finite: Annotated[
        NonFinitePolicy,
        _request(
            envvar=environment("non_finite"),
            help="Serve requests and answers with NaN or infinity (pass), or make them errors (refuse).",
        ),
    ] = NonFinitePolicy.PASS,
    max_connections: Annotated[
        int,
        _request(
            min=1,
            metavar="N",
            help="The most connections at a time, of HTTP and of gRPC each; one client address has three quarters of "
            "them. Further ones may only ask for health and metrics.",
        ),
    ] = 4096,
    max_timeout: Annotated[
        float,
        _request(
            **options.DURATION,
            help="The longest time that a request may wait. A longer `timeout`, or gRPC deadline, is cut to this; "
            "an SLO is not.",
        ),
    ] = options.unparsed("1min"),
    tls_cert: Annotated[
        Path | None, _security(metavar="FILE", help="Speak only TLS, with this certificate (PEM).")
    ] = None,
    tls_key: Annotated[Path | None, _security(metavar="FILE", help="The private key of the certificate (PEM).")] = None,
    auth_tokens: Annotated[
        Path | None,
        _security(metavar="FILE", help="Require one of the bearer tokens in this file: one per line, with # comments."),
    ] = None,
    allowed_hosts: Annotated[
        str,
        _security(
            metavar="NAME,…",
            envvar=environment("allowed_hosts"),
            show_default="this machine",
            help="Host names by which clients may call a server without tokens, such as `proteus.example`; `*`: any.",
        ),
    ] = "",
    drain_timeout: Annotated[
        float, _request(**options.DURATION, help="The longest time that draining may take.")
    ] = options.unparsed("10s"),
    attainment: options.Attainment = None,
    replan: Annotated[
        str,
        _adaptation(
            metavar="off|period=10s|auto",
            autocompletion=completion.one_of("off", "period=10s", "auto"),
            envvar=environment("replan"),
            help="When to re-plan: never, at this interval, or when the plan no longer fits the demand.",
        ),
    ] = "auto",
    strict: Annotated[
        bool,
        Option(
            "--strict",
            help="Don't start where a model, an eval split or an accuracy is not the one that was measured. Else the "
            "server starts without such variants.",
        ),
    ] = False,
    resume: Annotated[
        bool,
        _adaptation(
            "--resume/--no-resume",
            help="If the last server with this plan was killed, continue with the plan that was in force then. "
            "And keep live conditions: go by those of before.",
        ),
    ] = True,
    plan_history: Annotated[
        int, _adaptation(min=0, metavar="N", help="How many of the plans that were in force to keep in plans/history/.")
    ] = 1000,
    state: Annotated[
        Path | None,
        _adaptation(
            metavar="DIR",
            envvar=environment("state"),
            show_default="the workspace",
            help="The directory to write plans/history/, engines/built/ and samples/ to. The workspace may then be "
            "read-only.",
        ),
    ] = None,
    max_unavailable: Annotated[
        float,
        _adaptation(
            min=0,
            max=1,
            metavar="FRACTION",
            help="The largest part of a family's capacity that may be unavailable during a plan change, while devices "
            "without memory for two variants unload one and load the next.",
        ),
    ] = 0.5,
    drift_after: Annotated[
        float,
        _adaptation(
            **options.DURATION,
            help="Recalibrate a profile when measured times have differed from it by 20 % for this long; `0s`: never.",
        ),
    ] = options.unparsed("1min"),
    record: Annotated[
        bool,
        _adaptation("--record", help="Write recalibrated profiles, and accuracies by feedback, back to profiles/."),
    ] = False,
    feedback: Annotated[
        float,
        _adaptation(
            **options.DURATION,
            envvar=environment("feedback"),
            help="Keep answers to requests with an id for this long, so that clients can tell their labels; `0s`: "
            "none.",
        ),
    ] = options.unparsed("0s"),
    shifts: Annotated[
        bool,
        _adaptation(
            "--shifts/--no-shifts",
            help="Compare some of what is asked and answered with the eval splits, and tell where it is no longer "
            "alike.",
        ),
    ] = True,
    fixed_slots: Annotated[
        bool,
        _adaptation(
            "--fixed-slots",
            help="Have devices of several slots (GPUs) always use all slots of their profile. Else they use as many "
            "as are worth it by what is measured while they serve.",
        ),
    ] = False,
    samples: Annotated[
        float | None,
        _samples(
            parser=parse_share,
            metavar="SHARE",
            envvar=environment("samples"),
            show_default="none",
            help="Capture the inputs of this share of all requests, such as `1%`, and what was answered, in samples/.",
        ),
    ] = None,
    samples_space: Annotated[
        float,
        _samples(
            **options.SIZE,
            envvar=environment("samples_space"),
            help="The space that samples may take; the oldest go first.",
        ),
    ] = options.unparsed("1GiB"),
    samples_for: Annotated[
        float, _samples(**options.DURATION, envvar=environment("samples_for"), help="How long samples are kept.")
    ] = options.unparsed("7d"),
    watch: Annotated[
        bool, _adaptation("--watch", help="Read the catalog anew where it changes, or one of the models that it names.")
    ] = False,
    catalog_budget: Annotated[
        float,
        _adaptation(
            **options.DURATION,
            envvar=environment("catalog_budget"),
            help="The time to measure on each CPU what is new in the catalog, beside what it serves and at the lowest "
            "priority; `0s`: plans do without what has no profile.",
        ),
    ] = options.unparsed("1min"),
    executor: Annotated[
        ExecutorKind,
        _devices(
            envvar=environment("executor"),
            help="What runs the batches of a CPU: a thread of the server, or a process. A GPU always has a process.",
        ),
    ] = ExecutorKind.THREAD,
    batching: Annotated[
        str | None,
        _devices(
            metavar="RULE",
            autocompletion=completion.one_of(*completion.BATCHING),
            show_default="greedy",
            help="The batching rule: greedy launches what waits; proactive waits for more while the SLO allows; aimd; "
            "nexus; static-N.",
        ),
    ] = None,
    memory: options.Memory = None,
    emulate: Annotated[
        bool,
        _devices(
            "--emulate",
            help="Emulate the devices: batches take the profiled times, and answers are made up. Needs no models.",
        ),
    ] = False,
    fleet: Annotated[
        str | None,
        _devices(
            metavar="TYPE:COUNT,…",
            autocompletion=completion.fleets,
            show_default="those of the plan",
            help="With --emulate: the devices, such as `cpu:20,v100:10`; on hosts: `'a=cpu:4,v100:1;b=cpu:4'`. TYPE is "
            "that of a profiled device, or its id.",
        ),
    ] = None,
    cluster: options.Cluster = None,
    cluster_key: options.ClusterKey = None,
    join: Annotated[
        bool,
        Option(
            "--join/--no-join",
            help="With --cluster: also serve with devices of its hosts that the plan does not have, and with hosts "
            "that come later; or only with the devices of the plan.",
            rich_help_panel=sections.DEVICES,
        ),
    ] = True,
    join_budget: Annotated[
        float,
        Option(
            **options.DURATION,
            envvar=environment("join_budget"),
            help="With --cluster, the time to measure each device in that no profile is of, before it joins; `0s`: "
            "such devices stay out.",
            rich_help_panel=sections.DEVICES,
        ),
    ] = options.unparsed("1min"),
    otlp: Annotated[
        str | None,
        _trace(
            metavar="URL",
            envvar=environment("otlp"),
            help="Send traces to this collector (OTLP over HTTP), such as `http://127.0.0.1:4318`.",
        ),
    ] = None,
    otlp_sample: Annotated[
        float,
        _trace(
            min=0,
            max=1,
            metavar="FRACTION",
            envvar=environment("otlp_sample"),
            help="The fraction of requests to trace, of those whose `traceparent` does not decide it.",
        ),
    ] = 0.01,
    workspace_dir: options.Workspace = options.WORKSPACE,
) -> None:
    """Serve a plan over HTTP, and with --grpc-port over gRPC (Open Inference Protocol v2), until SIGTERM or Ctrl-C.

    The first signal drains: the server finishes the requests that it has and takes no more. A second one ends it at
    once.
    """
    from proteus_cli.cli.cluster import host_list
    from proteus_cli.serving.requests.samples.writer import SampleSettings
    from proteus_cli.serving.server.deployment import ServerOptions
    from proteus_cli.serving.server.server import serve as run_server
    from proteus_cli.serving.transport.tokens import read_tokens
    from proteus_cli.serving.workspace.deployment import DeploymentOptions, deployment_of
    from proteus_cli.serving.workspace.plans import Emulation
    from proteus_cli.store import Workspace

    require_cluster(context, cluster)
    given, records_nothing = flags(context), not drift_after and not feedback
    wrong = (
        ("--fleet" in given and not emulate, "`--fleet` is for devices that are emulated.",
         "add `--emulate`, or leave out `--fleet`"),
        (feedback and emulate, "Emulated devices give no answers that could be right.",
         "leave out `--feedback` or `--emulate`"),
        (feedback and auth_tokens is None, "Labels are taken only from clients with a token.",
         "add `--auth-tokens FILE`"),
        (samples is not None and emulate, "Emulated devices give no answers that could be kept.",
         "leave out `--samples` or `--emulate`"),
        (samples is None and given & {"--samples-space", "--samples-for"}, "No request is captured.",
         "add `--samples 1%`, or leave out `--samples-…`"),
        (samples_space < MIN_SAMPLES_BYTES, f"`--samples-space` must be {format_size(MIN_SAMPLES_BYTES)} at least.",
         "a file of samples may be that large"),
        (record and state is not None, "`--record` writes to the workspace, which `--state` leaves as it is.",
         "leave out one of both"),
        (record and emulate, "Emulated devices measure nothing that could be recorded.",
         "leave out `--record` or `--emulate`"),
        (record and records_nothing, "`--drift-after 0s` leaves nothing to record.",
         "leave out one of both, or add `--feedback 1h`"),
    )  # fmt: skip
    for is_wrong, message, hint in wrong:
        if is_wrong:
            raise UsageError(message, hint=hint)
    live_view = _set_up_logs(view, log_level, log_format)
    workspace = Workspace(workspace_dir, state)
    server = ServerOptions(
        host, port, grpc_port, max_body_bytes=int(max_body), max_connections=max_connections,
        max_timeout_s=max_timeout, drain_timeout_s=drain_timeout,
        refuses_non_finite=non_finite is NonFinitePolicy.REFUSE,
        certificate=_certificate(tls_cert, tls_key),
        tokens=read_tokens(auth_tokens) if auth_tokens is not None else None,
        allowed_hosts=_hosts(allowed_hosts), otlp=otlp, otlp_sample=otlp_sample,
        keep_answers_s=feedback,
        samples=SampleSettings(workspace.samples_dir, samples, int(samples_space), samples_for) if samples else None,
    )  # fmt: skip
    served = DeploymentOptions(
        replan, batching, Emulation(fleet) if emulate else None, strict=strict, resume=resume,
        kept_plans=plan_history,
        in_processes=executor is ExecutorKind.PROCESS, max_unavailable_frac=max_unavailable,
        drift_after_s=drift_after, record=record, shifts=shifts, memory=memory, attainment=attainment,
        hosts=host_list(cluster, cluster_key, workspace_dir) if cluster is not None else None,
        join_budget_s=join_budget if join else None,
        catalog_budget_s=catalog_budget, watch=watch, fixed_slots=fixed_slots,
    )  # fmt: skip
    with workspace.only_read() if emulate else nullcontext(workspace) as place:  # plans are kept all the same
        run_server(deployment_of(plan, place, served), server, _announce, live_view)


def _set_up_logs(view: ViewMode, level: logs.LogLevel | None, log_format: logs.LogFormat) -> "LiveView | None":
    """Have logs written to stderr, beside the view that is drawn on stdout. Returns the view."""
    is_terminal = sys.stdout.isatty()
    if view is ViewMode.LIVE and not is_terminal:
        raise UsageError("`--view live` needs a terminal on stdout.", hint="leave it out, or open the page at `/`")
    level = level or console.log_level()
    if view is ViewMode.PLAIN or not is_terminal or (view is ViewMode.AUTO and _is_plain()):
        logs.set_up(level, log_format, sys.stderr, beside_view=False)
        return None
    from proteus_cli.cli.live_view import HoldableStream, LiveView

    held = HoldableStream(sys.stderr) if sys.stderr.isatty() else None
    logs.set_up(level, log_format, held or sys.stderr, beside_view=held is not None)
    return LiveView(sys.stdout, held)


def _is_plain() -> bool:
    """Whether the user wants little output, or the terminal cannot draw."""
    return console.loudness.quiet or os.environ.get("TERM", "dumb") in {"dumb", "unknown"}


def _certificate(certificate: Path | None, key: Path | None) -> "ServerCertificate | None":
    from proteus_cli.serving.transport.tls import ServerCertificate

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("`--tls-cert` and `--tls-key` go together.", hint="give both, or neither")
    return ServerCertificate(certificate, key)


def _hosts(text: str) -> tuple[str, ...]:
    from proteus_cli.serving.rest.access import host_of

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    wrong = next((name for name in names if not host_of(name)), None)
    if wrong is not None:
        raise UsageError(
            f"`--allowed-hosts`: `{wrong}` is not the name of a host.", hint="write it without scheme and path"
        )
    return names


def _announce(ready: str) -> None:
    sys.stdout.write(f"ready {ready}\n")
    sys.stdout.flush()
