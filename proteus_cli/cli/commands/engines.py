"""``proteus engines``: the engines that were built for GPUs. Needs neither TensorRT nor a GPU."""

from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options import common
from proteus_cli.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proteus_cli.backends.tensorrt.inventory import ListedEngine

app = typer.Typer(help="Show, verify or remove engines that were built for GPUs.", no_args_is_help=True)


@app.command()
def ls(*, workspace: common.Workspace = common.WORKSPACE, json: common.Json = False) -> None:
    """Show the engines that are built: for which batches, how large, by which TensorRT, and whether they are current.

    An engine is stale where its model changed or its plan is not the one that was built, an orphan where the catalog
    no longer has its variant. Whether it fits the GPU and the TensorRT of today shows when it is used.
    """
    from proteus_cli.backends.tensorrt.inventory import list_engines
    from proteus_cli.store import Workspace

    found = list_engines(Workspace(workspace))
    _show(found, json=json)
    if not found:
        console.say("no engines are built; `proteus profile` builds them for GPUs")


@app.command()
def verify(*, workspace: common.Workspace = common.WORKSPACE, json: common.Json = False) -> None:
    """Compare each engine with its record and its model. Exits 1 where one is stale, and says why."""
    from proteus_cli.backends.tensorrt.inventory import list_engines
    from proteus_cli.store import Workspace

    found = list_engines(Workspace(workspace))
    _show([engine for engine in found if engine.state != "current"], json=json)
    stale = [f"{engine.name} for {engine.device_type}: {engine.why}" for engine in found if engine.state == "stale"]
    if stale:
        raise EngineError(
            f"{len(stale)} of {len(found)} engines are stale: {'; '.join(stale)}.",
            hint="they are built anew when they are needed; `proteus engines prune` removes them",
        )
    console.say(f"{len(found)} engines, none of them stale")


@app.command()
def prune(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
    workspace: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
) -> None:
    """Remove engines that are stale or orphans, and what interrupted builds left."""
    from proteus_cli.backends.tensorrt import inventory
    from proteus_cli.store import Workspace
    from proteus_cli.units import format_size

    removed = inventory.prune(Workspace(workspace), dry_run=dry_run)
    _show(removed, json=json)
    freed_bytes = sum(engine.record.plan_bytes for engine in removed if engine.record is not None)
    console.say(f"{'would remove' if dry_run else 'removed'} {len(removed)} engines, {format_size(freed_bytes)}")


def _show(engines: "Sequence[ListedEngine]", *, json: bool) -> None:
    from rich.table import Table

    from proteus_cli.units import format_size

    if json:
        console.show_json(engines)
        return
    table = Table("device type", "engine", "batches", "size", "TensorRT", "state")
    for engine in engines:
        record, state = engine.record, f"{engine.state}: {engine.why}" if engine.why else engine.state
        if record is None:
            table.add_row(engine.device_type, engine.name, console.UNKNOWN, console.UNKNOWN, console.UNKNOWN, state)
            continue
        options = record.key.options
        batches = f"{options.min_batch}–{options.max_batch}, best {options.opt_batch}"
        size = format_size(record.plan_bytes)
        table.add_row(engine.device_type, engine.name, batches, size, record.key.tensorrt, state)
    if engines:
        console.show(table)
