"""Plots of reports of one trace, as inline SVG or PNG; importing this loads matplotlib."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proteus_cli.domain.report import Report
from proteus_cli.reporting import grids, lines
from proteus_cli.reporting.lines import Run
from proteus_cli.reporting.style import INK, PNG_DPI, saved, settings
from proteus_cli.reporting.svg import SVG_INK, inline
from proteus_cli.store import write_bytes

_WIDTH_INCHES = 5.6
_LINES_INCHES = 2.95
_LEGEND_ROW_INCHES = 0.24
_GRID_INCHES = 1.35
_GRID_ROW_INCHES = 0.25
_LEGEND_CHARACTERS = 66
_SMALL_LEGEND_CHARACTERS = 84
_SMALL_LEGEND_FROM = 5
_SMALL_POINTS = 9


@dataclass(frozen=True, slots=True)
class Plot:
    """A kind of plot: how it is called, what it shows, how it is drawn, and whether its runs need a legend."""

    name: str
    title: str
    about: str
    draw: Callable[[Axes, Sequence[Run], str], None]
    has_legend: bool = True


OVER_TIME = (
    Plot("demand", "Demand and throughput", "Queries that arrived (area) and those answered, by arrival.", lines.demand),
    Plot(
        "accuracy",
        "Relative accuracy",
        "Ticks at the bottom: the plan of the run of that colour changed. Where much is lost, the scale is wider "
        "near 100 %.",
        lines.accuracy,
    ),
    Plot(
        "violations",
        "SLO violations",
        "Share of requests that were late, dropped, rejected or failed, by arrival. Where it is large, the scale is "
        "wider near 0.",
        lines.violations,
    ),
)
LATENCY = (
    Plot(
        "latency",
        "Latency",
        "Part of all requests that was answered within a latency; unanswered ones keep a line below 100 %. Dotted: "
        "lowest and highest latency target.",
        lines.latency_cdf,
    ),
)
FAMILIES = (
    Plot("family-accuracy", "Relative accuracy by family", "Over the whole run.", grids.family_accuracy, False),
    Plot("family-violations", "SLO violations by family", "Over the whole run.", grids.family_violations, False),
)
DEVICES = (Plot("devices", "Answers by device", "Over the whole run.", grids.device_rates, False),)
PLOTS = (*OVER_TIME, *LATENCY, *FAMILIES, *DEVICES)


def svgs(reports: Sequence[Report]) -> dict[str, str]:
    """Each of `PLOTS` by name as an SVG element for HTML: no fixed size, text in the page's font and colour."""
    runs = Run.all_of(reports)
    return {plot.name: _svg(plot, runs) for plot in PLOTS}


def write_png(directory: Path, reports: Sequence[Report]) -> tuple[Path, ...]:
    """Write each of `PLOTS` as ``NAME.png``; returns the paths. Raises `ArtefactError`."""
    runs = Run.all_of(reports)
    paths = tuple(directory / f"{plot.name}.png" for plot in PLOTS)
    for plot, path in zip(PLOTS, paths, strict=True):
        write_bytes(path, _drawn(plot, runs, INK, format="png", dpi=PNG_DPI, facecolor="white"))
    return paths


def _svg(plot: Plot, runs: Sequence[Run]) -> str:
    document = _drawn(plot, runs, SVG_INK, format="svg", transparent=True, metadata={"Date": None}).decode()
    return inline(document, name=plot.name, title=plot.title)


def _drawn(plot: Plot, runs: Sequence[Run], ink: str, **options: object) -> bytes:
    with mpl.rc_context(settings(plot.name, ink)):
        figure = Figure(figsize=(_WIDTH_INCHES, _height_inches(plot, runs)), layout="constrained")
        axes = figure.add_subplot()
        plot.draw(axes, runs, ink)
        if plot.has_legend:
            _legend(figure, axes, runs)
        return saved(figure, **options)


def _height_inches(plot: Plot, runs: Sequence[Run]) -> float:
    if not plot.has_legend:
        return _GRID_INCHES + _GRID_ROW_INCHES * len(runs)
    return _LINES_INCHES + _LEGEND_ROW_INCHES * -(-len(runs) // _legend_columns(runs))


def _legend(figure: Figure, axes: Axes, runs: Sequence[Run]) -> None:
    handles = [*(run.line() for run in runs), *axes.get_legend_handles_labels()[0]]
    size = _SMALL_POINTS if len(runs) >= _SMALL_LEGEND_FROM else None
    figure.legend(handles=handles, loc="outside upper left", ncols=_legend_columns(runs), fontsize=size)


def _legend_columns(runs: Sequence[Run]) -> int:
    longest = max(len(run.heading) for run in runs)
    characters = _SMALL_LEGEND_CHARACTERS if len(runs) >= _SMALL_LEGEND_FROM else _LEGEND_CHARACTERS
    return max(1, min(3, characters // (longest + 7)))
