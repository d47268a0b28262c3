"""``proteus serve``: run a plan in the foreground."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command_line.defaults import flags, require_cluster
from proteus_cli.cli.options import common
from proteus_cli.cli.options import serve as options
from proteus_cli.errors import UsageError
from proteus_cli.serving.logs import LogFormat, LogLevel
from proteus_cli.units import format_size

if TYPE_CHECKING:
    from proteus_cli.cli.views.live.live_view import LiveView
    from proteus_cli.serving.logs import LogStream
    from proteus_cli.serving.transport.tls import ServerCertificate

MIN_SAMPLES_BYTES = 32 * 2**20


def serve(
    context: typer.Context,
    plan: options.Plan,
    *,
    port: options.Port = 8000,
    grpc_port: options.GrpcPort = None,
    host: options.Host = "127.0.0.1",
    view: options.View = options.ViewMode.AUTO,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = LogFormat.TEXT,
    max_body: options.MaxBody = common.unparsed("64MiB"),
    non_finite: options.NonFinite = options.NonFinitePolicy.PASS,
    max_connections: options.MaxConnections = 4096,
    max_timeout: options.MaxTimeout = common.unparsed("1min"),
    tls_cert: options.TlsCert = None,
    tls_key: options.TlsKey = None,
    auth_tokens: options.AuthTokens = None,
    allowed_hosts: options.AllowedHosts = "",
    drain_timeout: options.DrainTimeout = common.unparsed("10s"),
    attainment: common.Attainment = None,
    replan: options.Replan = "auto",
    strict: options.Strict = False,
    resume: options.Resume = True,
    plan_history: options.PlanHistory = 1000,
    state: options.State = None,
    max_unavailable: options.MaxUnavailable = 0.5,
    drift_after: options.DriftAfter = common.unparsed("1min"),
    record: options.Record = False,
    feedback: options.Feedback = common.unparsed("0s"),
    shifts: options.Shifts = True,
    fixed_slots: options.FixedSlots = False,
    samples: options.Samples = None,
    samples_space: options.SamplesSpace = common.unparsed("1GiB"),
    samples_for: options.SamplesFor = common.unparsed("7d"),
    watch: options.Watch = False,
    catalog_budget: options.CatalogBudget = common.unparsed("1min"),
    executor: options.Executor = options.ExecutorKind.THREAD,
    batching: options.Batching = None,
    memory: common.Memory = None,
    emulate: options.Emulate = False,
    fleet: options.Fleet = None,
    cluster: common.Cluster = None,
    cluster_key: common.ClusterKey = None,
    join: options.Join = True,
    join_budget: options.JoinBudget = common.unparsed("1min"),
    otlp: options.Otlp = None,
    otlp_sample: options.OtlpSample = 0.01,
    workspace_dir: common.Workspace = common.WORKSPACE,
) -> None:
    """Serve a plan over HTTP, and with --grpc-port over gRPC (Open Inference Protocol v2), until SIGTERM or Ctrl-C.

    The first signal drains: the server finishes the requests that it has and takes no more. A second one ends it at
    once.
    """
    from proteus_cli.cli.cluster import host_list
    from proteus_cli.cli.workflows.deployment.deployment import DeploymentOptions, deployment_of
    from proteus_cli.cli.workflows.deployment.resources import Emulation
    from proteus_cli.serving.requests.samples.writer import SampleSettings
    from proteus_cli.serving.server.deployment import ServerOptions
    from proteus_cli.serving.server.server import serve as run_server
    from proteus_cli.serving.transport.tokens import read_tokens
    from proteus_cli.store import Workspace

    require_cluster(context, cluster)
    _require_compatible(
        flags(context), emulate=emulate, keeps_answers=feedback > 0, record=record, drift_after_s=drift_after,
        writes_elsewhere=state is not None, captures=samples is not None, samples_bytes=samples_space,
        has_tokens=auth_tokens is not None,
    )  # fmt: skip
    live_view = _set_up_logs(view, log_level, log_format)
    workspace = Workspace(workspace_dir, state)
    server = ServerOptions(
        host, port, grpc_port, max_body_bytes=int(max_body), max_connections=max_connections,
        max_timeout_s=max_timeout, drain_timeout_s=drain_timeout,
        refuses_non_finite=non_finite is options.NonFinitePolicy.REFUSE,
        certificate=_certificate(tls_cert, tls_key),
        tokens=read_tokens(auth_tokens) if auth_tokens is not None else None,
        allowed_hosts=_hosts(allowed_hosts), otlp=otlp, otlp_sample=otlp_sample,
        keep_answers_s=feedback,
        samples=SampleSettings(workspace.samples_dir, samples, int(samples_space), samples_for) if samples else None,
    )  # fmt: skip
    served = DeploymentOptions(
        replan, batching, Emulation(fleet) if emulate else None, strict=strict, resume=resume,
        kept_plans=plan_history,
        in_processes=executor is options.ExecutorKind.PROCESS, max_unavailable_frac=max_unavailable,
        drift_after_s=drift_after, record=record, shifts=shifts, memory=memory, attainment=attainment,
        hosts=host_list(cluster, cluster_key, workspace_dir) if cluster is not None else None,
        join_budget_s=join_budget if join else None,
        catalog_budget_s=catalog_budget, watch=watch, fixed_slots=fixed_slots,
    )  # fmt: skip
    with workspace.only_read() if emulate else nullcontext(workspace) as place:  # plans are kept all the same
        run_server(deployment_of(plan, place, served), server, _announce, live_view)


def _require_compatible(
    given: set[str],
    *,
    emulate: bool,
    keeps_answers: bool,
    record: bool,
    drift_after_s: float,
    writes_elsewhere: bool,
    captures: bool,
    samples_bytes: float,
    has_tokens: bool,
) -> None:
    if "--fleet" in given and not emulate:
        raise UsageError("`--fleet` is for devices that are emulated.", hint="add `--emulate`, or leave out `--fleet`")
    if keeps_answers and emulate:
        raise UsageError(
            "Emulated devices give no answers that could be right.", hint="leave out `--feedback` or `--emulate`"
        )
    if keeps_answers and not has_tokens:
        raise UsageError("Labels are taken only from clients with a token.", hint="add `--auth-tokens FILE`")
    if captures and emulate:
        raise UsageError(
            "Emulated devices give no answers that could be kept.", hint="leave out `--samples` or `--emulate`"
        )
    if not captures and given & {"--samples-space", "--samples-for"}:
        raise UsageError("No request is captured.", hint="add `--samples 1%`, or leave out `--samples-…`")
    if samples_bytes < MIN_SAMPLES_BYTES:
        raise UsageError(
            f"`--samples-space` must be {format_size(MIN_SAMPLES_BYTES)} at least.",
            hint="a file of samples may be that large",
        )
    if record:
        _require_recordable(
            emulate=emulate, keeps_answers=keeps_answers, drift_after_s=drift_after_s, writes_elsewhere=writes_elsewhere
        )


def _require_recordable(*, emulate: bool, keeps_answers: bool, drift_after_s: float, writes_elsewhere: bool) -> None:
    if writes_elsewhere:
        raise UsageError(
            "`--record` writes to the workspace, which `--state` leaves as it is.", hint="leave out one of both"
        )
    if emulate:
        raise UsageError(
            "Emulated devices measure nothing that could be recorded.", hint="leave out `--record` or `--emulate`"
        )
    if not drift_after_s and not keeps_answers:
        raise UsageError(
            "`--drift-after 0s` leaves nothing to record.", hint="leave out one of both, or add `--feedback 1h`"
        )


def _set_up_logs(view: options.ViewMode, level: LogLevel | None, log_format: LogFormat) -> "LiveView | None":
    """Have logs written to stderr, beside what draws on stdout, which is returned."""
    from proteus_cli.serving.logs import set_up

    stderr, live_view = _streams(view)
    is_beside_view = live_view is not None and sys.stderr.isatty()
    set_up(level or console.log_level(), log_format, stderr, beside_view=is_beside_view)
    return live_view


def _streams(view: options.ViewMode) -> "tuple[LogStream, LiveView | None]":
    """The stream to log to, and what draws on stdout."""
    if view is options.ViewMode.LIVE and not sys.stdout.isatty():
        raise UsageError("`--view live` needs a terminal on stdout.", hint="leave it out, or open the page at `/`")
    if view is options.ViewMode.PLAIN or not sys.stdout.isatty() or (view is options.ViewMode.AUTO and _is_plain()):
        return sys.stderr, None
    from proteus_cli.cli.views.live.live_view import HoldableStream, LiveView

    if not sys.stderr.isatty():
        return sys.stderr, LiveView(sys.stdout)
    log_stream = HoldableStream(sys.stderr)
    return log_stream, LiveView(sys.stdout, log_stream)


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
