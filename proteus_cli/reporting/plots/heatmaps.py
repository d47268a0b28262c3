"""Heat maps: a cell for each run and family, or for each run and device; importing this loads matplotlib."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from proteus_cli.reporting.device_groups import grouped_devices
from proteus_cli.reporting.plots.line_plots import PlottedRun
from proteus_cli.reporting.plots.plot_style import COLOURS, draw_cells
from proteus_cli.units import UNKNOWN

_MAX_NUMBERED = 12  # columns; with more, numbers do not fit into cells
_MAX_COLUMNS = 64  # beyond this, similar devices share a column
_NUMBER_POINTS = 9
_MAX_LABELS = 12  # of groups; of more, some have none
_LABEL_CHARACTERS = 40  # that fit below all columns together
_LARGE_LOSS = 5.0  # percentage points in the strongest colour, unless a cell has more

CellValues = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Column:
    """A label below ``width`` neighbouring columns."""

    label: str
    width: int = 1


def family_violations(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """The share of each family's requests that missed their SLO."""
    cells = _by_family(runs, lambda run, family: 100 * run.report.families[family].slo_violation_ratio)
    strength = _scaled(cells, at_least=_LARGE_LOSS)
    _draw(axes, runs, _families(runs), cells, strength=strength, colour=COLOURS[1], ink=ink)
    axes.set_xlabel("SLO violations (% of requests)\nthe stronger the colour, the more")


def family_accuracy(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """The relative accuracy of each family's answers."""

    def percent(run: PlottedRun, family: str) -> float:
        relative = run.report.families[family].relative_accuracy
        return np.nan if relative is None else 100 * relative

    cells = _by_family(runs, percent)
    strength = _scaled(np.maximum(0.0, 100 - cells), at_least=_LARGE_LOSS)  # with cascades, more than 100 can be
    _draw(axes, runs, _families(runs), cells, strength=strength, colour=COLOURS[0], ink=ink)
    axes.set_xlabel("relative accuracy (%)\nthe stronger the colour, the more is lost")


def device_rates(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """Answers per second of each device. Many devices are shown as the means of groups, by host or similarity."""
    groups = grouped_devices([run.report for run in runs])
    devices = [(device,) for group in groups for device in group.devices]
    is_each = len(devices) <= _MAX_COLUMNS
    members = devices if is_each else [group.devices for group in groups]
    cells = np.array([[_rate(run, each) for each in members] for run in runs]).reshape(len(runs), -1)
    if len(devices) <= _MAX_NUMBERED:
        columns = [_Column(device) for (device,) in devices]
    else:
        widths = [len(group.devices) if is_each else 1 for group in groups]
        labels = [group.label.replace(" × ", " ×\n") for group in groups]
        every = -(-len(groups) // _MAX_LABELS)
        columns = [
            _Column(label if at % every == 0 else "", width)
            for at, (label, width) in enumerate(zip(labels, widths, strict=True))
        ]
    _draw(axes, runs, columns, cells, strength=np.sqrt(_scaled(cells)), colour=COLOURS[2], ink=ink)
    axes.set_xlabel(f"answers per second and device\nthe stronger the colour, the more; at most {_maximum(cells):,.1f}")


def _by_family(runs: Sequence[PlottedRun], value: Callable[[PlottedRun, str], float]) -> CellValues:
    names = [column.label for column in _families(runs)]
    rows = [[value(run, name) if name in run.report.families else np.nan for name in names] for run in runs]
    return np.array(rows, dtype=np.float64).reshape(len(runs), -1)


def _families(runs: Sequence[PlottedRun]) -> list[_Column]:
    return [_Column(name) for name in dict.fromkeys(name for run in runs for name in run.report.families)]


def _rate(run: PlottedRun, devices: Sequence[str]) -> float:
    known = [run.report.devices[device].answers for device in devices if device in run.report.devices]
    return sum(known) / len(known) / run.report.duration_s if known and run.report.duration_s else np.nan


def _maximum(cells: CellValues) -> float:
    return float(np.max(cells, initial=0.0, where=~np.isnan(cells)))


def _scaled(cells: CellValues, *, at_least: float = 0.0) -> CellValues:
    """``cells`` scaled to 0 … 1, where 1 is their maximum, or ``at_least`` if that is more."""
    return cells / (max(_maximum(cells), at_least) or 1.0)


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
    """Draw cells coloured by ``strength``, from 0 to 1, runs from top to bottom, with numbers where they fit."""
    rows, across = cells.shape
    draw_cells(axes, strength, colour)
    if not across:
        axes.text(0.5, rows / 2, "none is known", ha="center", va="center")
    if across <= _MAX_NUMBERED:
        for (row, column), value in np.ndenumerate(cells):
            number = UNKNOWN if np.isnan(value) else f"{value:,.1f}"
            axes.text(column + 0.5, row + 0.5, number, ha="center", va="center", fontsize=_NUMBER_POINTS)
    ends = np.cumsum([0, *(column.width for column in columns)])
    for end in ends[1:-1].tolist():
        axes.axvline(end, color=ink, linewidth=0.6, alpha=0.35)
    is_tight = any(max(map(len, c.label.split("\n"))) * across > _LABEL_CHARACTERS * c.width for c in columns)
    axes.set_xticks(
        (ends[:-1] + ends[1:]) / 2,
        [column.label for column in columns],
        rotation=35 if is_tight else 0,
        ha="right" if is_tight else "center",
        rotation_mode="anchor",
    )
    axes.set_yticks(np.arange(rows) + 0.5, [run.heading for run in runs])
