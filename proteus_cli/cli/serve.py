"""``proteus serve``: run a plan in the foreground."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import completion
from proteus_cli.cli.command_line.defaults import with_settings
from proteus_cli.errors import UsageError
from proteus_cli.serving import logs
from proteus_cli.serving.settings import ServeSettings

if TYPE_CHECKING:
    from proteus_cli.cli.live_view import LiveView


@with_settings(
    ServeSettings,
    "port", "grpc_port", "host", "view", "replan", "feedback", "auth_tokens", "tls_cert", "tls_key", "emulate", "fleet",
    "cluster",
)  # fmt: skip
def serve(
    plan: Annotated[
        Path,
        Argument(
            metavar="PLAN",
            autocompletion=completion.plans,
            help="The plan to start with: a path, or a name in plans/.",
        ),
    ],
    *,
    settings: ServeSettings,
    workspace_dir: options.Workspace = options.WORKSPACE,
) -> None:
    """Serve a plan over HTTP, and with --grpc-port over gRPC (Open Inference Protocol v2), until SIGTERM or Ctrl-C.

    The first signal drains: the server finishes the requests that it has and takes no more. A second one ends it at
    once.
    """
    from proteus_cli.cli.cluster import host_list
    from proteus_cli.serving.server.server import serve as run_server
    from proteus_cli.serving.workspace.deployment import deployment_of
    from proteus_cli.store import Workspace

    live_view = _set_up_logs(settings)
    workspace, hosts = Workspace(workspace_dir, settings.state), None
    if settings.cluster is not None:
        hosts = host_list(settings.cluster, settings.cluster_key, workspace_dir)
    with workspace.only_read() if settings.emulate else nullcontext(workspace) as place:  # plans are kept all the same
        run_server(deployment_of(plan, place, settings, hosts), _announce, live_view)


def _set_up_logs(settings: ServeSettings) -> "LiveView | None":
    """Have logs written to stderr, beside the view that is drawn on stdout. Returns the view."""
    is_terminal = sys.stdout.isatty()
    if settings.view == "live" and not is_terminal:
        raise UsageError("`--view live` needs a terminal on stdout.", hint="leave it out, or open the page at `/`")
    level = settings.log_level or console.log_level()
    if settings.view == "plain" or not is_terminal or (settings.view == "auto" and _is_plain()):
        logs.set_up(level, settings.log_format, sys.stderr, beside_view=False)
        return None
    from proteus_cli.cli.live_view import HoldableStream, LiveView

    held = HoldableStream(sys.stderr) if sys.stderr.isatty() else None
    logs.set_up(level, settings.log_format, held or sys.stderr, beside_view=held is not None)
    return LiveView(sys.stdout, held)


def _is_plain() -> bool:
    """Whether the user wants little output, or the terminal cannot draw."""
    return console.loudness.quiet or os.environ.get("TERM", "dumb") in {"dumb", "unknown"}


def _announce(ready: str) -> None:
    sys.stdout.write(f"ready {ready}\n")
    sys.stdout.flush()
