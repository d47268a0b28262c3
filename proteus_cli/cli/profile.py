"""``proteus profile``: measure the variants on the devices."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options import DEFAULT_WORKSPACE, DURATION, JsonOption, WorkspaceOption, environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proteus_cli.backends.base import Backend
    from proteus_cli.domain.catalog import Catalog
    from proteus_cli.domain.device import Device
    from proteus_cli.domain.profile import Profile
    from proteus_cli.profiling.sweep import Todo
    from proteus_cli.store import Workspace


def profile(
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the cells and an estimate.")] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    json: JsonOption = False,
) -> None:
    """Measure latency, load time, memory and accuracy of every variant, for batch sizes 1, 2, 4, … up to its SLO.

    What is current is not measured again, so an interrupted run goes on where it was.
    """
    from proteus_cli.backends.discovery import discover, select
    from proteus_cli.backends.opening import open_backend
    from proteus_cli.profiling.sweep import todos
    from proteus_cli.settings import read_settings
    from proteus_cli.store import Workspace

    place = Workspace(workspace)
    catalog = place.catalog()
    chosen = select(discover(read_settings(workspace).devices), device)
    done: list[Profile] = []
    planned: list[dict[str, Any]] = []
    for measured, alike in _by_type(chosen, share=device == "all"):
        backend = open_backend(measured)
        work = todos(place, catalog, measured, backend, max_batch)
        if dry_run:
            planned.append(_planned(measured, work, budget))
            if not json:
                _show_cells(measured, work, planned[-1])
            continue
        done.append(_measure(place, catalog, measured, backend, work, budget))
        done += _share(place, done[-1], alike)
    if json:
        console.show_json(planned if dry_run else done)
    elif not dry_run:
        _show(done, catalog)


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
    work: "list[Todo]",
    budget_s: float | None,
) -> "Profile":
    from proteus_cli.profiling.sweep import Sweep, accuracy_warnings

    sweep = Sweep(place, device, backend, work, budget_s)
    with console.progress(f"profiling {device.id}") as advance:
        for step in sweep.run():
            advance(step.now, step.done_frac)
    for warning in accuracy_warnings(catalog, sweep.profile):
        console.warn(warning)
    console.say(f"measured {sweep.measured} cells on {device.id} → {place.profile_path(device.id)}")
    return place.profile(device.id)


def _share(place: "Workspace", measured: "Profile", alike: "Sequence[Device]") -> "list[Profile]":
    from proteus_cli.profiling.sweep import share

    for device in alike:
        console.say(f"{device.id} is of the same type and shares it → {place.profile_path(device.id)}")
    return [share(place, measured, device) for device in alike]


def _planned(device: "Device", work: "list[Todo]", budget_s: float | None) -> dict[str, Any]:
    from proteus_cli.profiling.sweep import estimate_s

    cells = [cell for todo in work for cell in todo.cells]
    return {"device": device.id, "estimate_s": estimate_s(work, budget_s), "cells": cells}


def _show_cells(device: "Device", work: "list[Todo]", planned: dict[str, Any]) -> None:
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
    from rich.table import Column, Table

    from proteus_cli.domain.profile import capacity
    from proteus_cli.units import format_duration

    table = Table(
        "device", Column("variant", no_wrap=True), "accuracy", "p95 of 1", "capacity, qps", "at batch", "load"
    )
    for profile in (p for p in profiles if p.measured_on == p.device.id):
        for measured in (v for v in profile.variants if v.family in catalog.names and v.points):
            within = capacity(measured.points, catalog.family(measured.family).slo_s)
            table.add_row(
                profile.device.id,
                measured.variant,
                f"{measured.accuracy:.4f}",
                format_duration(measured.points[0].p95_s),
                f"{within.qps:,.0f}" if within.qps else "misses its SLO",
                str(within.max_batch) if within.qps else "–",
                format_duration(measured.load_s),
            )
    console.show(table)
