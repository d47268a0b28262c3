"""``proteus serve``: run a plan in the foreground."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options.common import DEFAULT_WORKSPACE, DURATION, SIZE, WorkspaceOption, flags
from proteus_cli.cli.options.renamed import environment
from proteus_cli.errors import UsageError
from proteus_cli.serving.logs import LogFormat, LogLevel

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from proteus_cli.cli.views.live_view import LiveView
    from proteus_cli.cli.workflows.deployment import Emulation
    from proteus_cli.serving.logs import LogStream
    from proteus_cli.serving.transport.tokens import Tokens


class ViewMode(StrEnum):
    """What stdout shows."""

    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"


class NonFinite(StrEnum):
    """What becomes of NaN and infinity."""

    PASS = "pass"  # noqa: S105 - no password
    REFUSE = "refuse"


class ExecutorKind(StrEnum):
    """What runs the batches of a device that is no GPU."""

    THREAD = "thread"
    PROCESS = "process"


def serve(
    context: typer.Context,
    plan: Annotated[Path, typer.Argument(help="The plan: a path, or a name in plans/.")],
    *,
    host: Annotated[str, typer.Option(envvar=environment("host"), help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar=environment("port"), help="HTTP port; 0 picks a free one.")
    ] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            envvar=environment("grpc_port"),
            help="gRPC port; 0 picks a free one.",
            show_default="no gRPC",
        ),
    ] = None,
    replan: Annotated[
        str,
        typer.Option(
            metavar="off|period=10s|auto",
            envvar=environment("replan"),
            help="Change the plan as the demand changes: never, so often, or when it no longer fits.",
        ),
    ] = "auto",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume",
            help="Where the last server with this plan was killed, go on from the plan that was in force then.",
        ),
    ] = True,
    plan_history: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Keep the last N plans in force in plans/history/; 0 keeps none."),
    ] = 1000,
    drift_after: Annotated[
        float,
        typer.Option(**DURATION, help="Re-estimate profiled times that are off by 20 % for so long; 0s: never."),
    ] = "1min",  # type: ignore[assignment]
    record: Annotated[bool, typer.Option("--record", help="Write what is re-estimated back to profiles/.")] = False,
    emulate: Annotated[
        bool,
        typer.Option(
            "--emulate",
            help="Emulate the devices: batches take profiled times, answers are made up. Needs no models.",
        ),
    ] = False,
    fleet: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE:COUNT,…",
            help="Emulate these devices: `cpu:20,v100:10`, by profiled type or device.",
            show_default="those of the plan",
        ),
    ] = None,
    batching: Annotated[
        str | None,
        typer.Option(
            help="How batches form: greedy; proteus: wait for company while the SLO allows; aimd; nexus; static-N.",
            show_default="greedy",
        ),
    ] = None,
    executor: Annotated[
        ExecutorKind,
        typer.Option(
            envvar=environment("executor"),
            help="What runs the batches of a CPU: a thread of the server, or a process of its own. "
            "A GPU always has a process.",
        ),
    ] = ExecutorKind.THREAD,
    max_unavailable: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="FRACTION",
            help="The largest part of a family's capacity that may be unavailable during a roll-out, while devices "
            "without memory for two variants unload one and load the next.",
        ),
    ] = 0.5,
    max_body: Annotated[float, typer.Option(**SIZE, help="The largest request body.")] = "64MiB",  # type: ignore[assignment]
    non_finite: Annotated[
        NonFinite,
        typer.Option(envvar=environment("non_finite"), help="NaN and infinity in tensors: answered, or errors."),
    ] = NonFinite.PASS,
    max_connections: Annotated[
        int, typer.Option(min=1, help="The most connections; others are told to come back.")
    ] = 4096,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Speak TLS only, with this certificate (PEM); needs --tls-key.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of that certificate (PEM).")] = None,
    auth_tokens: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Answer only who has a bearer token of this file; one a line, # comments."),
    ] = None,
    drain_timeout: Annotated[float, typer.Option(**DURATION, help="The longest that draining may take.")] = "10s",  # type: ignore[assignment]
    log_format: Annotated[
        LogFormat, typer.Option(envvar=environment("log_format"), help="How lines on stderr are written.")
    ] = LogFormat.TEXT,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            envvar=environment("log_level"),
            help="What is logged; debug has a line for each batch.",
            show_default="info; debug with -v, warning with -q",
        ),
    ] = None,
    otlp: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar=environment("otlp"),
            help="Send traces to this collector (OTLP over HTTP), like http://127.0.0.1:4318.",
        ),
    ] = None,
    otlp_sample: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            envvar=environment("otlp_sample"),
            help="Fraction of requests to trace, of those whose `traceparent` doesn't decide it.",
        ),
    ] = 0.01,
    view: Annotated[
        ViewMode,
        typer.Option(
            envvar=environment("view"),
            help="What stdout shows: a live view of families and devices, or the ready line only; auto: live where "
            "it is a terminal, unless -q.",
        ),
    ] = ViewMode.AUTO,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Serve the plan over HTTP, and gRPC where asked (Open Inference Protocol v2), until SIGTERM or Ctrl-C.

    A second signal ends at once.
    """
    from proteus_cli.cli.workflows.deployment import deployment_of
    from proteus_cli.serving.logs import set_up
    from proteus_cli.serving.server.deployment import ServerOptions
    from proteus_cli.serving.server.server import serve as run_server
    from proteus_cli.store import Workspace

    emulation = _emulation(context, fleet, emulate=emulate)
    _require_recordable(record=record, emulate=emulate, drift_after_s=drift_after)
    stderr, live_view = _streams(view)
    set_up(log_level or _usual_level(), log_format, stderr)
    options = ServerOptions(
        host,
        port,
        grpc_port,
        max_body_bytes=int(max_body),
        max_connections=max_connections,
        drain_timeout_s=drain_timeout,
        refuses_non_finite=non_finite is NonFinite.REFUSE,
        tls=_tls(tls_cert, tls_key),
        tokens=_tokens(auth_tokens),
        otlp=otlp,
        otlp_sample=otlp_sample,
    )
    place = Workspace(workspace)
    deployment = deployment_of(
        plan,
        place,
        replan=replan,
        batching=batching,
        emulation=emulation,
        resume=resume,
        kept_plans=plan_history,
        in_processes=executor is ExecutorKind.PROCESS,
        max_unavailable_frac=max_unavailable,
        drift_after_s=drift_after,
        record=record,
    )
    run_server(deployment, options, _announce, live_view)


def _emulation(context: typer.Context, fleet: str | None, *, emulate: bool) -> "Emulation | None":
    from proteus_cli.cli.workflows.deployment import Emulation

    if emulate:
        return Emulation(fleet)
    if "--fleet" in flags(context):
        raise UsageError("`--fleet` is for devices that are emulated.", hint="add `--emulate`, or leave out `--fleet`")
    return None


def _require_recordable(*, record: bool, emulate: bool, drift_after_s: float) -> None:
    if record and emulate:
        raise UsageError(
            "Emulated devices measure nothing that could be recorded.", hint="leave out `--record` or `--emulate`"
        )
    if record and not drift_after_s:
        raise UsageError("`--drift-after 0s` leaves nothing to record.", hint="leave out one of both")


def _streams(view: ViewMode) -> "tuple[LogStream, LiveView | None]":
    """Where lines are logged to, and what draws on stdout."""
    if view is ViewMode.LIVE and not sys.stdout.isatty():
        raise UsageError("`--view live` needs a terminal on stdout.", hint="leave it out, or look at the page at `/`")
    if view is ViewMode.PLAIN or not sys.stdout.isatty() or (view is ViewMode.AUTO and _is_plain()):
        return sys.stderr, None
    from proteus_cli.cli.views.live_view import Held, LiveView

    if not sys.stderr.isatty():
        return sys.stderr, LiveView(sys.stdout)
    held = Held(sys.stderr)
    return held, LiveView(sys.stdout, held)


def _is_plain() -> bool:
    """Little is wanted, or the terminal can't do more."""
    return console.loudness.quiet or os.environ.get("TERM", "dumb") in {"dumb", "unknown"}


def _tls(certificate: Path | None, key: Path | None) -> "Callable[[Sequence[str]], ssl.SSLContext] | None":
    from functools import partial

    from proteus_cli.serving.transport.tls import tls_context

    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("`--tls-cert` and `--tls-key` go together.", hint="give both, or neither")
    tls_context(certificate, key, ())  # say at once what is wrong with them
    return partial(tls_context, certificate, key)


def _tokens(path: Path | None) -> "Tokens | None":
    from proteus_cli.serving.transport.tokens import read_tokens

    return read_tokens(path) if path is not None else None


def _announce(ready: str) -> None:
    sys.stdout.write(f"ready {ready}\n")
    sys.stdout.flush()


def _usual_level() -> LogLevel:
    """What ``-v`` and ``-q`` ask for."""
    return LogLevel.DEBUG if console.loudness.verbose else LogLevel.WARNING if console.loudness.quiet else LogLevel.INFO
