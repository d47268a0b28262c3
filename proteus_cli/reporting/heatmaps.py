"""Plots with a cell for each run and family or device; importing this loads matplotlib."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from proteus_cli.reporting.comparison import UNKNOWN
from proteus_cli.reporting.device_groups import similar_devices
from proteus_cli.reporting.line_plots import PlottedRun
from proteus_cli.reporting.plot_style import COLOURS

_MAX_NUMBERED = 12  # columns; more leave a number no room
_MAX_COLUMNS = 64
_STRONGEST = 0.6  # of a colour behind a number in ink
_NUMBER_POINTS = 9
_CHARACTERS = 40  # that fit below all columns
_LARGE_LOSS = 5.0  # points; smaller ones stay pale even where none is larger

CellValues = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Column:
    """What stands below ``width`` neighbouring columns."""

    label: str
    width: int = 1


def family_violations(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """The share of each family's requests that missed their SLO."""
    cells = _by_family(runs, lambda run, family: 100 * run.report.families[family].slo_violation_ratio)
    _draw(axes, runs, _families(runs), cells, strength=_part(cells, of=_LARGE_LOSS), colour=COLOURS[1], ink=ink)
    axes.set_xlabel("SLO violations (% of requests)\nthe stronger the colour, the more")


def family_accuracy(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """The relative accuracy of each family's answers."""

    def percent(run: PlottedRun, family: str) -> float:
        relative = run.report.families[family].relative_accuracy
        return np.nan if relative is None else 100 * relative

    cells = _by_family(runs, percent)
    _draw(axes, runs, _families(runs), cells, strength=_part(100 - cells, of=_LARGE_LOSS), colour=COLOURS[0], ink=ink)
    axes.set_xlabel("relative accuracy (%)\nthe stronger the colour, the more is lost")


def device_rates(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """Answers per second of each device, or of one of a kind on average where there are too many to draw."""
    groups = similar_devices([run.report for run in runs])
    is_fine = sum(len(kind.devices) for kind in groups) <= _MAX_COLUMNS
    members = [(device,) for kind in groups for device in kind.devices] if is_fine else [k.devices for k in groups]
    cells = np.array([[_rate(run, devices) for devices in members] for run in runs]).reshape(len(runs), -1)
    if is_fine and len(members) <= _MAX_NUMBERED:
        columns = [_Column(devices[0]) for devices in members]
    else:
        columns = [_Column(kind.label.replace(" × ", " ×\n"), len(kind.devices) if is_fine else 1) for kind in groups]
    _draw(axes, runs, columns, cells, strength=np.sqrt(_part(cells)), colour=COLOURS[2], ink=ink)
    axes.set_xlabel(f"answers per second and device\nthe stronger the colour, the more; at most {_most(cells):.3g}")


def _by_family(runs: Sequence[PlottedRun], value: Callable[[PlottedRun, str], float]) -> CellValues:
    names = [column.label for column in _families(runs)]
    rows = [[value(run, name) if name in run.report.families else np.nan for name in names] for run in runs]
    return np.array(rows, dtype=np.float64).reshape(len(runs), -1)


def _families(runs: Sequence[PlottedRun]) -> list[_Column]:
    return [_Column(name) for name in dict.fromkeys(name for run in runs for name in run.report.families)]


def _rate(run: PlottedRun, devices: Sequence[str]) -> float:
    known = [run.report.devices[device].answers for device in devices if device in run.report.devices]
    return sum(known) / len(known) / run.report.duration_s if known and run.report.duration_s else np.nan


def _most(cells: CellValues) -> float:
    return float(np.max(cells, initial=0.0, where=~np.isnan(cells)))


def _part(cells: CellValues, *, of: float = 0.0) -> CellValues:
    """``cells`` from 0 to 1, where 1 is the most of them, and at least ``of``."""
    return cells / (max(_most(cells), of) or 1.0)


def _draw(
    axes: Axes,
    runs: Sequence[PlottedRun],
    columns: Sequence[_Column],
    cells: CellValues,
    *,
    strength: CellValues,
    colour: str,
    ink: str,
) -> None:
    """Cells coloured by ``strength`` (0 is none, 1 is all), runs from top to bottom, numbers where they fit."""
    rows, across = cells.shape
    shades = np.empty((rows, across, 4))
    shades[...] = to_rgba(colour)
    shades[..., 3] = _STRONGEST * np.nan_to_num(strength)
    if across:
        axes.pcolormesh(np.arange(across + 1), np.arange(rows + 1), shades)
    else:
        axes.text(0.5, rows / 2, "none is known", ha="center", va="center")
    if across <= _MAX_NUMBERED:
        for (row, column), value in np.ndenumerate(cells):
            number = UNKNOWN if np.isnan(value) else f"{value:.1f}"
            axes.text(column + 0.5, row + 0.5, number, ha="center", va="center", fontsize=_NUMBER_POINTS)
    ends = np.cumsum([0, *(column.width for column in columns)])
    for end in ends[1:-1].tolist():
        axes.axvline(end, color=ink, linewidth=0.6, alpha=0.35)
    is_tight = any(max(map(len, c.label.split("\n"))) * across > _CHARACTERS * c.width for c in columns)
    axes.set_xticks(
        (ends[:-1] + ends[1:]) / 2,
        [column.label for column in columns],
        rotation=35 if is_tight else 0,
        ha="right" if is_tight else "center",
        rotation_mode="anchor",
    )
    axes.set_yticks(np.arange(rows) + 0.5, [run.heading for run in runs])
    axes.set_xlim(0, max(1, across))
    axes.set_ylim(rows, 0)
    axes.grid(visible=False)
    axes.tick_params(length=0)
