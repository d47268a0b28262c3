"""``proteus rollout``: bring a new version of a model into service by steps, on a running server."""

from typing import TYPE_CHECKING

from proteus_cli.cli import console
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups import rollout as options

if TYPE_CHECKING:
    from proteus_cli.domain.rollouts import RolloutStatus

app = group_of_commands("Roll out a new version of a model on a running server.")


@app.command(cls=Command)
def start(
    family: options.Family,
    version: options.Version,
    *,
    shadow: options.Shadow = None,
    canary: options.Canary = options.CANARY,
    guard: options.Guard = None,
    confidence: options.Confidence = options.CONFIDENCE,
    auto: options.Auto = False,
    most_queries: options.MostQueries = options.MOST_QUERIES,
    rollback_window: options.RollbackWindow = options.ROLLBACK_WINDOW,
    url: options.Url = "http://127.0.0.1:8000",
    ca: common.Ca = None,
    json: common.Json = False,
) -> None:
    """Start to roll out a version: it answers a growing share of the queries, as long as the guard holds.

    The server measures the version first, and loads it beside the old one. A token is read from PROTEUS_TOKEN.
    """
    from proteus_cli.cli.workflows.rollout_calls import RolloutCalls
    from proteus_cli.cli.workflows.rollout_options import RolloutOptions

    asked = RolloutOptions(shadow, canary, guard, confidence, auto, most_queries, rollback_window)
    _show(RolloutCalls(url, ca).start(asked.start_of(family, version)), json=json)


@app.command(cls=Command)
def status(
    *,
    watch: options.Watch = False,
    url: options.Url = "http://127.0.0.1:8000",
    ca: common.Ca = None,
    json: common.Json = False,
) -> None:
    """Show the last roll-out of each family: its step, and what is known of the new version.

    Numbers in brackets are 95 % confidence intervals. A token is read from PROTEUS_TOKEN.
    """
    from proteus_cli.cli.views.rollout_tables import rollout_lines, rollout_table
    from proteus_cli.cli.views.rollout_watch import watch_rollouts
    from proteus_cli.cli.workflows.rollout_calls import RolloutCalls
    from proteus_cli.errors import UsageError

    if watch and json:
        raise UsageError("--watch shows a table.", hint="leave --json out, or --watch")
    if watch:
        watch_rollouts(lambda: RolloutCalls(url, ca).status().rollouts)
        return
    found = RolloutCalls(url, ca).status()
    tables = [rollout_table(found.rollouts)] if found.rollouts else []
    lines = [line for each in found.rollouts for line in rollout_lines(each)]
    console.deliver(found, json=json, tables=tables, lines=lines if tables else [f"{url} rolls no version out"])


@app.command(cls=Command)
def promote(
    family: options.Family,
    *,
    fully: options.Fully = False,
    url: options.Url = "http://127.0.0.1:8000",
    ca: common.Ca = None,
    json: common.Json = False,
) -> None:
    """Go on to the next step, whatever the guard says; after the last one, the new version serves in place of the old.

    The catalog of the server's workspace names the new version then. A token is read from PROTEUS_TOKEN.
    """
    from proteus_cli.cli.workflows.rollout_calls import RolloutCalls

    _show(RolloutCalls(url, ca).promote(family, fully=fully), json=json)


@app.command(cls=Command)
def abort(
    family: options.Family,
    *,
    reason: options.Reason = "",
    url: options.Url = "http://127.0.0.1:8000",
    ca: common.Ca = None,
    json: common.Json = False,
) -> None:
    """End a roll-out: the old version serves on, or, until the rollback window is over, again.

    A token is read from PROTEUS_TOKEN.
    """
    from proteus_cli.cli.workflows.rollout_calls import RolloutCalls

    _show(RolloutCalls(url, ca).abort(family, reason), json=json)


def _show(status: "RolloutStatus", *, json: bool) -> None:
    from proteus_cli.cli.views.rollout_tables import rollout_lines, rollout_table

    console.deliver(status, json=json, tables=[rollout_table([status])], lines=rollout_lines(status))
