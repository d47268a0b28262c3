"""``proteus profile``: measure the variants on the devices, or import and export what was measured."""

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options.common import DEFAULT_WORKSPACE, DURATION, JsonOption, WorkspaceOption, flags
from proteus_cli.cli.options.renamed import environment
from proteus_cli.errors import ArtefactError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proteus_cli.backends.base import Backend
    from proteus_cli.backends.engines import Progress
    from proteus_cli.domain.catalog import Catalog, Family
    from proteus_cli.domain.device import Device
    from proteus_cli.domain.profile import Profile, VariantProfile
    from proteus_cli.profiling.sweep import MeasurementJob
    from proteus_cli.store import Workspace

MEASURING = {"--device", "--budget", "--max-batch", "--max-slots", "--dry-run"}
IMPORTING = {"--slo", "--force"}
UNKNOWN = "–"


def profile(
    context: typer.Context,
    *,
    device: Annotated[
        str, typer.Option(help="Device ids, comma-separated, or `all`: one device of each type is measured for all.")
    ] = "all",
    budget: Annotated[
        float | None,
        typer.Option(
            **DURATION,
            envvar=environment("budget"),
            help="Time for each device's latencies, like `60s`.",
            show_default="until stable",
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="The largest batch size to try.")] = 64,
    max_slots: Annotated[
        int,
        typer.Option(min=1, max=4, help="The most batches to have on a GPU at once; fewer take less of its memory."),
    ] = 4,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the cells and an estimate.")] = False,
    from_csv: Annotated[
        Path | None,
        typer.Option(metavar="CSV", help="Import profiles by device type instead; needs no models. `-` is stdin."),
    ] = None,
    slo: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="With --from-csv, where there is no catalog yet: `300ms`, or by family: `bert=300ms,yolo=100ms`.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --from-csv: overwrite profiles that were measured.")
    ] = False,
    to_csv: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Export the workspace's profiles instead. `-` is stdout.")
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Measure latency, load time, memory and accuracy of every variant, for batch sizes 1, 2, 4, … up to its SLO.

    On a GPU also with 2, 3 and 4 batches at once while that brings something, the time of computing alone, and power.

    What is current is not measured again, so an interrupted run goes on where it was.
    """
    from proteus_cli.store import Workspace

    given = flags(context)
    _require_one_task(given, from_csv, to_csv)
    place = Workspace(workspace)
    if to_csv is not None:
        _export(place, to_csv)
    elif from_csv is not None:
        # A default in proteus.toml is for workspaces that have no catalog yet; a flag is meant for this one.
        has_slos = place.catalog_path.exists() and "--slo" not in given
        _import(place, from_csv, None if has_slos else slo, force=force, json=json)
    else:
        _measure_all(place, device, budget, max_batch, max_slots, dry_run=dry_run, json=json)


def _require_one_task(given: set[str], from_csv: Path | None, to_csv: Path | None) -> None:
    """Raise `UsageError` where flags belong to another task than the one that was asked for."""
    if from_csv is not None and to_csv is not None:
        raise UsageError("Give one of `--from-csv` and `--to-csv`.", hint="without any, the devices are measured")
    if to_csv is not None:
        task, strange = "with `--to-csv`", MEASURING | IMPORTING | {"--json"}
    elif from_csv is not None:
        task, strange = "with `--from-csv`", MEASURING
    else:
        task, strange = "without `--from-csv`", IMPORTING
    if stray := sorted(given & strange):
        raise UsageError(f"`{stray[0]}` makes no sense {task}.", hint=f"leave out {', '.join(stray)}")


def _measure_all(
    place: "Workspace",
    device: str,
    budget_s: float | None,
    max_batch: int,
    max_slots: int,
    *,
    dry_run: bool,
    json: bool,
) -> None:
    from proteus_cli.backends.discovery import discover, select
    from proteus_cli.backends.engines import Engines
    from proteus_cli.backends.opening import open_backend
    from proteus_cli.profiling.sweep import todos
    from proteus_cli.settings import read_settings

    catalog = place.catalog()
    chosen = select(discover(read_settings(place.root).devices), device)
    engines = Engines(place.built_dir, max_batch, console.say, _building)
    done: list[Profile] = []
    planned: list[dict[str, Any]] = []
    for measured, alike in _by_type(chosen, share=device == "all"):
        backend = open_backend(measured, engines)
        work = todos(place, catalog, measured, backend, max_batch, max_slots)
        if dry_run:
            planned.append(_planned(measured, work, budget_s))
            if not json:
                _show_cells(measured, work, planned[-1])
            continue
        done.append(_measure(place, catalog, measured, backend, work, budget_s))
        done += _share(place, done[-1], alike)
    if json:
        console.show_json(planned if dry_run else done)
    elif not dry_run:
        _show(done, catalog)


def _import(place: "Workspace", path: Path, slo: str | None, *, force: bool, json: bool) -> None:
    from proteus_cli.profiling.csv_files import parse_rows
    from proteus_cli.profiling.importing import import_rows, parse_slos

    slos = parse_slos(slo) if slo is not None else None
    text, name = _read(path)
    done = import_rows(place, parse_rows(text, name), slos, name=name, force=force)
    for each in done:
        console.say(f"imported {each.device.type} → {place.profile_path(each.device.id)}")
    if json:
        console.show_json(done)
    else:
        _show(done, place.catalog())


def _read(path: Path) -> tuple[str, str]:
    """The text of a file, or of stdin where ``path`` is ``-``, and what to call it."""
    from proteus_cli.profiling.csv_files import HINT
    from proteus_cli.store import read_text, text_of

    if str(path) == console.STDOUT:
        return text_of(sys.stdin.buffer.read(), "stdin", hint=HINT), "stdin"
    return read_text(path, hint=HINT), str(path)


def _export(place: "Workspace", path: Path) -> None:
    from proteus_cli.profiling.csv_files import parse_rows, to_csv
    from proteus_cli.store import write_text

    text = to_csv(place.profiles().values())
    if str(path) == console.STDOUT:
        typer.echo(text, nl=False)
    else:
        write_text(path, text)
        console.say(f"wrote {path}")
    try:
        parse_rows(text, str(path))
    except ArtefactError as error:  # such as accuracies that were measured to differ between types
        console.warn(f"`proteus profile --from-csv` will refuse it: {error.message}")


def _by_type(devices: "Sequence[Device]", *, share: bool) -> "list[tuple[Device, list[Device]]]":
    """(device to measure, devices that perform alike)"""
    if not share:
        return [(device, []) for device in devices]
    by_type: dict[str, list[Device]] = {}
    for device in devices:
        by_type.setdefault(device.type, []).append(device)
    return [(alike[0], alike[1:]) for alike in by_type.values()]


def _measure(
    place: "Workspace",
    catalog: "Catalog",
    device: "Device",
    backend: "Backend",
    work: "list[MeasurementJob]",
    budget_s: float | None,
) -> "Profile":
    from proteus_cli.profiling.sweep import Sweep, accuracy_warnings

    sweep = Sweep(place, device, backend, work, budget_s)
    with console.progress(f"profiling {device.id}") as advance:
        for step in sweep.run():
            advance(step.now, step.done_frac)
    for warning in accuracy_warnings(catalog, sweep.profile):
        console.warn(warning)
    if sweep.slowed_by:
        console.warn(
            f"{device.id}: its clocks were held down while measuring ({', '.join(sweep.slowed_by)}); it may be faster"
        )
    console.say(f"measured {sweep.measured} cells on {device.id} → {place.profile_path(device.id)}")
    return place.profile(device.id)


@contextmanager
def _building(name: str) -> "Iterator[Progress]":
    """The bar of an engine that is built. An interrupt ends the build, which then leaves nothing."""

    def follow(now: str, done_frac: float) -> bool:
        advance(now, done_frac)
        return True

    try:
        with console.progress(f"building {name}") as advance:
            yield follow
    except KeyboardInterrupt:
        console.say(f"building {name} was cancelled, nothing of it was kept; what was measured before is")
        raise


def _share(place: "Workspace", measured: "Profile", alike: "Sequence[Device]") -> "list[Profile]":
    from proteus_cli.profiling.sweep import share

    for device in alike:
        console.say(f"{device.id} is of the same type and shares it → {place.profile_path(device.id)}")
    return [share(place, measured, device) for device in alike]


def _planned(device: "Device", work: "list[MeasurementJob]", budget_s: float | None) -> dict[str, Any]:
    from proteus_cli.profiling.sweep import estimate_s

    cells = [cell for todo in work for cell in todo.cells]
    return {"device": device.id, "estimate_s": estimate_s(work, budget_s), "cells": cells}


def _show_cells(device: "Device", work: "list[MeasurementJob]", planned: dict[str, Any]) -> None:
    from rich.table import Table

    from proteus_cli.units import format_duration

    table = Table("device", "family", "variant", "batch sizes to measure", "current")
    for todo in work:
        batches = " ".join(str(cell.batch) for cell in todo.cells) or "–"
        known = len(todo.known.points) if todo.known is not None else 0
        table.add_row(device.id, todo.family.name, todo.variant.name, batches, f"{known} cells")
    console.show(table)
    about = format_duration(planned["estimate_s"])
    console.say(f"{device.id}: at most {len(planned['cells'])} cells, about {about}; sweeps end early past their SLO")


def _show(profiles: "Sequence[Profile]", catalog: "Catalog") -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    def number(*lines: str) -> Column:
        return Column("\n".join(lines), justify="right", no_wrap=True)

    numbers = (number("", "acc."), number("p95", "of 1"), number("capacity", "qps"), number("", "at"))
    table = Table(
        Column("\ndevice", overflow="fold"),
        Column("\nvariant", overflow="fold"),
        *numbers,
        number("", "load"),
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for profile in (p for p in profiles if p.measured_on == p.device.id):
        for measured in (v for v in profile.variants if v.family in catalog.names and v.points):
            table.add_row(
                profile.device.id, measured.variant, *_numbers(profile, measured, catalog.family(measured.family))
            )
    console.show(table)
    console.show(
        "acc.: accuracy · p95 of 1: of a batch of one · at: batch size of the capacity\n"
        "–: not known, or no batch size is fast enough for the SLO"
    )
    for profile in (p for p in profiles if p.measured_on == p.device.id and _has_slots(p)):
        _show_slots(profile, catalog)


def _has_slots(profile: "Profile") -> bool:
    return any(measured.concurrent for measured in profile.variants)


def _show_slots(profile: "Profile", catalog: "Catalog") -> None:
    """Throughput against the number of batches on the device at once, and what else only GPUs have."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    from proteus_cli.profiling.slots import of_batch
    from proteus_cli.units import format_duration

    most = max(point.slots for measured in profile.variants for point in measured.concurrent)
    numbers = ("1 slot", *(f"{slots} slots" for slots in range(2, most + 1)))
    names = ("batch", "alone", "compute", *numbers, "power", "energy")
    columns = [Column(name, justify="right", no_wrap=True) for name in names]
    table = Table(
        Column("variant", overflow="fold"),
        *columns,
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    for measured in (each for each in profile.variants if each.family in catalog.names):
        for point in measured.points:
            by_slots = {each.slots: each for each in of_batch(measured, point.batch)}
            served = by_slots.get(profile.slots, point)
            table.add_row(
                measured.variant,
                str(point.batch),
                format_duration(point.mean_s),
                UNKNOWN if point.compute_s is None else format_duration(point.compute_s),
                *(f"{by_slots[n].qps:,.0f}" if n in by_slots else UNKNOWN for n in range(1, most + 1)),
                UNKNOWN if served.power_w is None else f"{served.power_w:.0f} W",
                UNKNOWN if served.energy_j is None else f"{served.energy_j:.3g} J",
            )
    console.show(f"\n{profile.device.id} is served with {profile.slots} slot{'s' if profile.slots > 1 else ''}:")
    console.show(table)
    console.show(
        "alone: mean of one batch at a time, copies included; compute: without them, by the device's clock\n"
        "1 slot, 2 slots, …: queries per second with so many batches at once · energy: of a query"
    )


def _numbers(profile: "Profile", measured: "VariantProfile", family: "Family") -> "Iterator[str]":
    from proteus_cli.domain.profile import capacity
    from proteus_cli.units import format_duration

    one, within = measured.points[0], capacity(profile.points_of(measured), family.slo_s)
    yield f"{measured.accuracy:.4f}"
    yield format_duration(one.p95_s) if one.batch == 1 else UNKNOWN
    yield f"{within.qps:,.0f}" if within.qps else UNKNOWN
    yield str(within.max_batch) if within.qps else UNKNOWN
    yield format_duration(measured.load_s) if measured.load_s else UNKNOWN
