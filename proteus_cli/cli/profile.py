"""``proteus profile``: measure the variants on the devices, or import and export profiles."""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.defaults import flags, require_cluster
from proteus_cli.errors import UsageError
from proteus_cli.settings import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proteus_cli.cli.profile_runs import DeviceWork
    from proteus_cli.domain.profile import Profile
    from proteus_cli.store import Workspace


MEASURING = {
    "--device", "--budget", "--max-batch", "--max-slots", "--accept-noise", "--as-type", "--dry-run", "--cluster",
}  # fmt: skip

IMPORTING = {"--slo"}

_measuring = partial(Option, rich_help_panel=sections.MEASURING)

_exchange = partial(Option, rich_help_panel=sections.EXCHANGE)


def profile(
    context: typer.Context,
    *,
    device: Annotated[
        str,
        Option(
            metavar="DEVICE,…",
            autocompletion=completion.devices,
            help="Ids of devices, separated by commas, or `all`. Of those of one type, the first is measured for all.",
        ),
    ] = "all",
    budget: Annotated[
        float | None,
        Option(
            **options.DURATION,
            envvar=environment("budget"),
            show_default="until stable",
            help="The time for all devices together, such as `60s`; what plans use most comes first. Hosts of a "
            "cluster measure at the same time.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Only list what would be measured, with an estimate of the time.")
    ] = False,
    force: Annotated[
        bool,
        Option(
            "--force",
            help="Measure again what is current already. With --from-csv: overwrite profiles that were measured.",
        ),
    ] = False,
    max_batch: Annotated[int, _measuring(min=1, metavar="N", help="The largest batch size to measure.")] = 64,
    max_slots: Annotated[
        int,
        _measuring(
            min=1, max=4, metavar="N", help="The most batches to run on a GPU at once. Fewer take less of its memory."
        ),
    ] = 4,
    accept_noise: Annotated[
        bool,
        _measuring(
            "--accept-noise",
            help="Take cells as they are measured, though other programs use the device or the runs scatter: none is "
            "repeated or marked. Marks of earlier runs stay.",
        ),
    ] = False,
    as_type: Annotated[
        str | None,
        _measuring(
            metavar="NAME",
            help="The device type to store profiles under, so that machines of one make share them. It stays until "
            "another one is given.",
        ),
    ] = None,
    from_csv: Annotated[
        list[Path] | None,
        _exchange(
            metavar="CSV",
            help="Import profiles by device type instead of measuring; needs no models. `-` is stdin. Several, as from "
            "machines of one make, are merged: the slower of two cells counts.",
        ),
    ] = None,
    slo: Annotated[
        str | None,
        _exchange(
            metavar="DURATION",
            help="With --from-csv, if there is no catalog: the SLO of all families, `300ms`, or of each, "
            "`bert=300ms,yolo=100ms`.",
        ),
    ] = None,
    to_csv: Annotated[
        Path | None, _exchange(metavar="CSV", help="Export the profiles of the workspace instead. `-` is stdout.")
    ] = None,
    cluster: options.Cluster = None,
    cluster_key: options.ClusterKey = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
    json: options.Json = False,
) -> None:
    """Measure latency, load time, memory and accuracy of every variant, for batch sizes 1, 2, 4, … within its SLO.

    With --cluster, agents measure their devices. CPUs that serve are measured beside that, at low priority.

    A GPU is also measured with several batches at once, while that raises its throughput; so are compute time and
    power.

    What is measured already, and still current, is not measured again: an interrupted run continues where it was. Cells
    that were measured while other programs used the device, or whose runs scatter, are repeated, and if that does not
    help, they are marked as noisy (~) and measured again by the next run.
    """
    from proteus_cli.store import Workspace

    require_cluster(context, cluster)
    given, workspace = flags(context), Workspace(workspace_dir)
    _require_one_task(given, from_csv, to_csv, lists_on_cluster=dry_run and cluster is not None)
    if to_csv is not None:
        _export(workspace, to_csv)
        return
    if from_csv:
        # a flag is meant for this workspace; a default in proteus.toml is for workspaces without a catalog
        slo_of_new = slo if "--slo" in given or not workspace.catalog_path.exists() else None
        _import(workspace, from_csv, slo_of_new, force=force, json=json)
        return
    from proteus_cli.cli.cluster import host_list
    from proteus_cli.cli.profile_runs import measured, measured_by_agents, work_on
    from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions

    if cluster is not None:
        wanted = MeasureOptions(device, budget, max_batch, max_slots, accept_noise, as_type, force, beside_servers=True)
        _show(
            measured_by_agents(workspace, host_list(cluster, cluster_key, workspace_dir), wanted), workspace, json=json
        )
        return
    with workspace.only_read() if dry_run else nullcontext(workspace) as place:
        work = work_on(place, device, max_batch, max_slots, as_type=as_type, force=force, accepts_noise=accept_noise)
        if dry_run:
            _list(work, budget, json=json)
        else:
            _show(measured(place, work, budget), place, json=json)


def _require_one_task(
    given: set[str], from_csv: "Sequence[Path] | None", to_csv: Path | None, *, lists_on_cluster: bool
) -> None:
    """Raise `UsageError` if flags belong to another task than the one that was asked for."""
    if from_csv and to_csv is not None:
        raise UsageError("Give one of `--from-csv` and `--to-csv`.", hint="without any, the devices are measured")
    if to_csv is not None:
        task, strange = "with `--to-csv`", MEASURING | IMPORTING | {"--force", "--json"}
    elif from_csv:
        task, strange = "with `--from-csv`", MEASURING
    else:
        task, strange = "without `--from-csv`", IMPORTING
    if stray := sorted(given & strange):
        raise UsageError(f"`{stray[0]}` makes no sense {task}.", hint=f"leave out {', '.join(stray)}")
    if lists_on_cluster and not from_csv and to_csv is None:
        raise UsageError("`--dry-run` lists what this machine would measure.", hint="leave out `--cluster`")


def _list(work: "Iterable[DeviceWork]", budget_s: float | None, *, json: bool) -> None:
    """Show what would be measured, about how long that takes, and whether other programs would disturb it now."""
    from proteus_cli.cli.profile_tables import jobs_table
    from proteus_cli.profiling.estimate import estimates, total_s
    from proteus_cli.profiling.noise import NOISE_FRAC, waiting_now
    from proteus_cli.units import counted, format_duration, format_percent

    planned: list[dict[str, Any]] = []
    for each in work:
        found = estimates(each.device, each.backend, each.jobs)
        device, cells = each.device.id, [cell for one in found for cell in one.cells]
        seconds = total_s(found, None if budget_s is None else budget_s / each.sweeps_left)
        budget_s = None if budget_s is None else max(budget_s - seconds, 0.0)
        waiting_frac = waiting_now(each.device.cores) if each.device.cores else 0.0
        planned.append({"device": device, "estimate_s": seconds, "waiting_frac": waiting_frac, "cells": cells})
        if not json:
            console.show(jobs_table(device, found))
            console.say(f"{device}: at most {counted(len(cells), 'cell')}, about {format_duration(seconds)}")
        if waiting_frac > NOISE_FRAC:
            console.warn(
                f"other programs use {device} now: work there waits for a core for {format_percent(waiting_frac)} of "
                "the time. What is measured meanwhile is repeated, and marked as noisy; stop these programs first"
            )
    if json:
        console.show_json(planned)


def _import(workspace: "Workspace", paths: "Sequence[Path]", slo: str | None, *, force: bool, json: bool) -> None:
    from proteus_cli.input_files import PROFILE_TABLE, read_at_most, read_text, text_of
    from proteus_cli.profiling.csv_file import HINT, parse_rows
    from proteus_cli.profiling.importing import import_rows, parse_slos
    from proteus_cli.profiling.merging import merged
    from proteus_cli.units import counted, format_percent

    slos = parse_slos(slo) if slo is not None else None
    texts = {}  # by their name in messages
    for path in paths:
        if path == console.DASH:
            content = read_at_most(sys.stdin.buffer, PROFILE_TABLE, "stdin", hint=HINT)
            texts["stdin"] = text_of(content, PROFILE_TABLE, "stdin", hint=HINT)
        else:
            texts[str(path)] = read_text(path, PROFILE_TABLE, hint=HINT)
    both = merged([(name, parse_rows(text, name)) for name, text in texts.items()])
    done = import_rows(workspace, both.rows, slos, name=", ".join(texts), force=force)
    if both.shared:
        slower = f"slower by {format_percent(both.spread_frac)} at most"
        console.say(f"more than one file has {counted(both.shared, 'cell')}: the slower ones count, {slower}")
    for each in done:
        console.say(f"imported {each.device.type} → {workspace.profile_path(each.device.id)}")
    _show(done, workspace, json=json)


def _export(workspace: "Workspace", path: Path) -> None:
    from proteus_cli.profiling.csv_file import to_csv

    text = to_csv(workspace.profiles().values())
    with console.writing(path) as write:
        write(text)
    if path != console.DASH:
        console.say(f"wrote {path}")


def _show(profiles: "Sequence[Profile]", workspace: "Workspace", *, json: bool) -> None:
    from proteus_cli.cli.profile_tables import profile_tables

    console.deliver(profiles, json=json, tables=profile_tables(profiles, workspace.catalog()))
