"""``proteus engines``: the TensorRT engines of the workspace. Needs neither TensorRT nor a GPU."""

from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proteus_cli.backends.tensorrt.inventory import ListedEngine

app = group_of_commands("List, verify or remove engines that were built for GPUs.")


@app.command(cls=Command)
def ls(
    *, state: options.State = None, workspace_dir: options.Workspace = options.WORKSPACE, json: options.Json = False
) -> None:
    """List the engines that were built: their batch sizes, size, TensorRT version, and whether they are current.

    An engine is stale if its model has changed, or if its file is not the one that was built. It is an orphan if the
    catalog does not have its variant. Whether an engine fits the GPU and the installed TensorRT is checked when it is
    loaded.
    """
    from proteus_cli.backends.tensorrt.inventory import list_engines
    from proteus_cli.store import Workspace

    found = list_engines(Workspace(workspace_dir, state))
    _show(found, json=json)
    if not found:
        console.say("no engines are built; `proteus profile` builds them for GPUs")


@app.command(cls=Command)
def verify(
    *, state: options.State = None, workspace_dir: options.Workspace = options.WORKSPACE, json: options.Json = False
) -> None:
    """Compare each engine with its record and its model. Exits with code 1 if one is stale, and says why."""
    from proteus_cli.backends.tensorrt.inventory import list_engines
    from proteus_cli.store import Workspace
    from proteus_cli.units import counted

    found = list_engines(Workspace(workspace_dir, state))
    _show([engine for engine in found if engine.state != "current"], json=json)
    stale = [f"{engine.name} for {engine.device_type}: {engine.why}" for engine in found if engine.state == "stale"]
    if stale:
        raise EngineError(
            f"{len(stale)} of {counted(len(found), 'engine')} stale: {'; '.join(stale)}.",
            hint="they are built again when they are needed; `proteus engines prune` removes them",
        )
    console.say(f"{counted(len(found), 'engine')}, none stale")


@app.command(cls=Command)
def prune(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Remove stale engines, orphans, the files of interrupted builds, and prepared models that are no longer used.

    With --state, of that directory; without, of the workspace.
    """
    from proteus_cli.backends.tensorrt import inventory
    from proteus_cli.store import Workspace
    from proteus_cli.units import counted, format_size

    workspace = Workspace(workspace_dir, state)
    removed = inventory.prune(workspace, dry_run=dry_run)
    prepared, prepared_bytes = inventory.prune_prepared(workspace, dry_run=dry_run)
    _show(removed, json=json)
    freed_bytes = sum(engine.record.plan_bytes for engine in removed if engine.record is not None)
    verb = "would remove" if dry_run else "removed"
    console.say(f"{verb} {counted(len(removed), 'engine')}, {format_size(freed_bytes)}")
    if prepared:
        console.say(f"{verb} {counted(prepared, 'prepared model')}, {format_size(prepared_bytes)}")


def _show(engines: "Sequence[ListedEngine]", *, json: bool) -> None:
    from proteus_cli.reporting.tables import table, text
    from proteus_cli.units import UNKNOWN, format_size

    if json:
        console.show_json(engines)
        return
    rows = table(*map(text, ("device type", "engine", "batches", "size", "TensorRT", "state")))
    for engine in engines:
        batches = size = tensorrt = UNKNOWN
        if engine.record is not None:
            built = engine.record.key.options
            batches = f"{built.min_batch}–{built.max_batch}, best {built.opt_batch}"
            size, tensorrt = format_size(engine.record.plan_bytes), engine.record.key.tensorrt
        state = f"{engine.state}: {engine.why}" if engine.why else engine.state
        rows.add_row(engine.device_type, engine.name, batches, size, tensorrt, state)
    if engines:
        console.show(rows)
