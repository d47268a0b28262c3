"""``proteus profile``: measure the variants on the devices, or import and export profiles."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command_line.defaults import flags, require_cluster
from proteus_cli.cli.options import common
from proteus_cli.cli.options import profile as options
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proteus_cli.cli.workflows.measuring import DeviceWork
    from proteus_cli.domain.catalog import Catalog
    from proteus_cli.domain.profile import Profile
    from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions
    from proteus_cli.store import Workspace


def profile(
    context: typer.Context,
    *,
    device: options.Device = "all",
    budget: options.Budget = None,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    max_batch: options.MaxBatch = 64,
    max_slots: options.MaxSlots = 4,
    accept_noise: options.AcceptNoise = False,
    as_type: options.AsType = None,
    from_csv: options.FromCsv = None,
    slo: options.Slo = None,
    to_csv: options.ToCsv = None,
    cluster: common.Cluster = None,
    cluster_key: common.ClusterKey = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
    json: common.Json = False,
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
    given = flags(context)
    _require_one_task(given, from_csv, to_csv, lists_on_cluster=dry_run and cluster is not None)
    workspace = Workspace(workspace_dir)
    if to_csv is not None:
        _export(workspace, to_csv)
    elif from_csv:
        _import(workspace, from_csv, _wanted_slos(workspace, slo, given), force=force, json=json)
    else:
        from proteus_cli.serving.devices.remote.channel.messages import MeasureOptions

        beside = cluster is not None
        wanted = MeasureOptions(device, budget, max_batch, max_slots, accept_noise, as_type, force, beside)
        if cluster is not None:
            _measure_on_hosts(workspace, cluster, cluster_key, wanted, json=json)
        else:
            _measure_here(workspace, wanted, is_dry_run=dry_run, json=json)


def _require_one_task(
    given: set[str], from_csv: "Sequence[Path] | None", to_csv: Path | None, *, lists_on_cluster: bool
) -> None:
    """Raise `UsageError` if flags belong to another task than the one that was asked for."""
    if from_csv and to_csv is not None:
        raise UsageError("Give one of `--from-csv` and `--to-csv`.", hint="without any, the devices are measured")
    if to_csv is not None:
        task, strange = "with `--to-csv`", options.MEASURING | options.IMPORTING | {"--force", "--json"}
    elif from_csv:
        task, strange = "with `--from-csv`", options.MEASURING
    else:
        task, strange = "without `--from-csv`", options.IMPORTING
    if stray := sorted(given & strange):
        raise UsageError(f"`{stray[0]}` makes no sense {task}.", hint=f"leave out {', '.join(stray)}")
    if lists_on_cluster and not from_csv and to_csv is None:
        raise UsageError("`--dry-run` lists what this machine would measure.", hint="leave out `--cluster`")


def _wanted_slos(workspace: "Workspace", slo: str | None, given: set[str]) -> str | None:
    """A flag is meant for this workspace; a default in proteus.toml is for those that have no catalog yet."""
    return slo if "--slo" in given or not workspace.catalog_path.exists() else None


def _list(work: "Iterable[DeviceWork]", budget_s: float | None, *, json: bool) -> None:
    """Show what would be measured, about how long that takes, and whether other programs would disturb it now."""
    from proteus_cli.cli.views.profile_tables import jobs_table
    from proteus_cli.profiling.estimate import estimates, total_s
    from proteus_cli.profiling.measuring.noise import NOISE_FRAC, waiting_now
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


def _measure_on_hosts(
    workspace: "Workspace", cluster: str, key: Path | None, wanted: "MeasureOptions", *, json: bool
) -> None:
    """Have the agents of a cluster measure their devices, and show the profiles."""
    from proteus_cli.cli.cluster import host_list
    from proteus_cli.cli.workflows.cluster.measuring import measured_by_agents

    found = measured_by_agents(workspace, host_list(cluster, key, workspace.root), wanted)
    _show(found, workspace.catalog(), json=json)


def _measure_here(workspace: "Workspace", wanted: "MeasureOptions", *, is_dry_run: bool, json: bool) -> None:
    """Measure devices of this machine, and show the profiles; of a dry run, what would be measured."""
    from proteus_cli.cli.workflows.measuring import measured, work_on

    with workspace.only_read() if is_dry_run else nullcontext(workspace) as place:
        work = work_on(
            place, wanted.devices, wanted.max_batch, wanted.max_slots,
            as_type=wanted.as_type, force=wanted.force, accepts_noise=wanted.accepts_noise,
        )  # fmt: skip
        if is_dry_run:
            _list(work, wanted.budget_s, json=json)
        else:
            _show(measured(place, work, wanted.budget_s), place.catalog(), json=json)


def _import(workspace: "Workspace", paths: "Sequence[Path]", slo: str | None, *, force: bool, json: bool) -> None:
    from proteus_cli.profiling.csv_files.reading import parse_rows
    from proteus_cli.profiling.importing import import_rows, parse_slos
    from proteus_cli.profiling.merging import merged
    from proteus_cli.units import counted, format_percent

    slos = parse_slos(slo) if slo is not None else None
    texts = [_read(path) for path in paths]
    both = merged([(name, parse_rows(text, name)) for text, name in texts])
    done = import_rows(workspace, both.rows, slos, name=", ".join(name for _, name in texts), force=force)
    if both.shared:
        slower = f"slower by {format_percent(both.spread_frac)} at most"
        console.say(f"more than one file has {counted(both.shared, 'cell')}: the slower ones count, {slower}")
    for each in done:
        console.say(f"imported {each.device.type} → {workspace.profile_path(each.device.id)}")
    _show(done, workspace.catalog(), json=json)


def _read(path: Path) -> tuple[str, str]:
    """The text of a file, or of stdin if ``path`` is ``-``, and a name for it in messages."""
    from proteus_cli.input_files import PROFILE_TABLE, read_at_most, read_text, text_of
    from proteus_cli.profiling.csv_files.columns import HINT

    if path == console.DASH:
        content = read_at_most(sys.stdin.buffer, PROFILE_TABLE, "stdin", hint=HINT)
        return text_of(content, PROFILE_TABLE, "stdin", hint=HINT), "stdin"
    return read_text(path, PROFILE_TABLE, hint=HINT), str(path)


def _export(workspace: "Workspace", path: Path) -> None:
    from proteus_cli.profiling.csv_files.writing import to_csv

    text = to_csv(workspace.profiles().values())
    with console.writing(path) as write:
        write(text)
    if path != console.DASH:
        console.say(f"wrote {path}")


def _show(profiles: "Sequence[Profile]", catalog: "Catalog", *, json: bool) -> None:
    from proteus_cli.cli.views.profile_tables import profile_tables

    console.deliver(profiles, json=json, tables=profile_tables(profiles, catalog))
