"""Plots of reports of one trace, as figures, inline SVG, or PNG; importing this loads matplotlib.

Runs differ by colour (Okabe & Ito's, told apart by the colour-blind) and also by line style and marker.
"""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from proteus_cli.domain.report import Report, Window
from proteus_cli.reporting.rows import headings
from proteus_cli.reporting.timeline import merged, violation_frac, width_s
from proteus_cli.store import write_bytes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_SIZE_INCHES = (5.6, 3.3)
_PNG_DPI = 160
INK = "#1a1a1a"
_SVG_INK = "#010203"  # stands for the page's own text colour, which it becomes
_MOST_POINTS = 240
_MARKS = 12
_LONGEST_NAME = 12
_LEGEND_CHARACTERS = 66
_PERCENTILES = ("p50", "p90", "p95", "p99", "max")


@dataclass(frozen=True, slots=True)
class Plot:
    """A kind of plot: how it is called, what it shows, and how it is drawn."""

    name: str
    title: str
    about: str
    draw: Callable[[Axes, "Sequence[Run]", str], None]


@dataclass(frozen=True, slots=True)
class Run:
    """One report as it is drawn: heading, look, and windows coarse enough to see."""

    heading: str
    report: Report
    windows: tuple[Window, ...]
    look: Mapping[str, str]

    @property
    def middles_s(self) -> list[float]:
        return [window.start_s + window.length_s / 2 for window in self.windows]

    def line(self) -> Line2D:
        return Line2D([], [], label=self.heading, **self.look)  # type: ignore[arg-type]


def svgs(reports: Sequence[Report]) -> dict[str, str]:
    """Each of `PLOTS` by name as an SVG element for HTML: no fixed size, text in the page's font and colour."""
    return {plot.name: _svg(plot, _runs(reports)) for plot in PLOTS}


def write_png(directory: Path, reports: Sequence[Report]) -> tuple[Path, ...]:
    """Write each of `PLOTS` as ``NAME.png``; returns the paths. Raises `ArtefactError`."""
    paths = tuple(directory / f"{plot.name}.png" for plot in PLOTS)
    for plot, path in zip(PLOTS, paths, strict=True):
        write_bytes(path, _saved(plot, _runs(reports), INK, format="png", dpi=_PNG_DPI, facecolor="white"))
    return paths


def drawing(draw: Callable[..., None], *, rows: int, size_inches: tuple[float, float], **options: object) -> bytes:
    """A picture of ``rows`` axes above each other that share their x axis; ``draw`` gets all of them."""
    with mpl.rc_context(_style("drawing", INK)):
        figure = Figure(figsize=size_inches, layout="constrained")
        draw(*figure.subplots(rows, sharex=True))
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=_PNG_DPI, facecolor="white", **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _runs(reports: Sequence[Report]) -> list[Run]:
    width = width_s(reports, _MOST_POINTS)
    return [
        Run(heading, report, merged(report.seconds, width), _look(place))
        for place, (heading, report) in enumerate(zip(headings(reports), reports, strict=True))
    ]


def _look(place: int) -> dict[str, str]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
    }


def _saved(plot: Plot, runs: Sequence[Run], ink: str, **options: object) -> bytes:
    with mpl.rc_context(_style(plot.name, ink)):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        plot.draw(axes, runs, ink)
        handles = [*(run.line() for run in runs), *axes.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside upper left", ncols=_legend_columns(runs))
        buffer = io.BytesIO()
        figure.savefig(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def _legend_columns(runs: Sequence[Run]) -> int:
    longest = max(len(run.heading) for run in runs)
    return max(1, min(3, _LEGEND_CHARACTERS // (longest + 7)))


def _style(salt: str, ink: str) -> dict[Any, Any]:
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    return {
        **dict.fromkeys(inked, ink),
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 11,
        "grid.alpha": 0.18,
        "grid.linewidth": 0.7,
        "legend.borderaxespad": 0.2,
        "legend.columnspacing": 1.4,
        "legend.frameon": False,
        "legend.handlelength": 3.0,
        "lines.linewidth": 1.7,
        "lines.markersize": 4.5,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.parse_math": False,
    }


def _demand(axes: Axes, runs: Sequence[Run], ink: str) -> None:
    longest = max(runs, key=lambda run: len(run.windows))
    demand = [window.demand_qps for window in longest.windows]
    axes.fill_between(longest.middles_s, demand, color=ink, alpha=0.16, linewidth=0, label="demand")
    for run in runs:
        _plot(axes, run, [window.throughput_qps for window in run.windows])
    axes.set_ylim(bottom=0)
    _label(axes, runs, "queries per second")


def _accuracy(axes: Axes, runs: Sequence[Run], _ink: str) -> None:
    lowest = 95.0
    for run in runs:
        percents = [_percent(window.relative_accuracy) for window in run.windows]
        lowest = min([lowest, *(percent for percent in percents if not math.isnan(percent))])
        _plot(axes, run, percents)
        for replan in run.report.replans:
            axes.axvline(replan.at_s, color=run.look["color"], linewidth=0.8, alpha=0.6)
    axes.set_ylim(max(0.0, lowest - 1), 100.5)
    _label(axes, runs, "relative accuracy (%)")


def _violations(axes: Axes, runs: Sequence[Run], _ink: str) -> None:
    highest = 5.0
    for run in runs:
        percents = [_percent(violation_frac(window)) for window in run.windows]
        highest = max([highest, *(percent for percent in percents if not math.isnan(percent))])
        _plot(axes, run, percents)
    axes.set_ylim(0, highest * 1.04)
    _label(axes, runs, "violations (%)")


def _latency(axes: Axes, runs: Sequence[Run], ink: str) -> None:
    answered = [(run, run.report.latency_s) for run in runs if run.report.latency_s is not None]
    for run, latency_s in answered:
        values = [1e3 * getattr(latency_s, name) for name in _PERCENTILES]
        axes.plot(range(len(values)), values, **run.look)  # type: ignore[arg-type]
    _slo_lines(axes, runs, ink)
    if answered and all(latency_s.p50 > 0 for _, latency_s in answered):
        _logarithmic(axes)
    axes.set_xticks(range(len(_PERCENTILES)), _PERCENTILES)
    axes.set_xlabel("percentile of answered queries")
    axes.set_ylabel("latency (ms)")


PLOTS = (
    Plot("demand", "Demand and throughput", "Queries that arrived (area) and those answered, by arrival.", _demand),
    Plot("accuracy", "Relative accuracy", "Vertical lines: the plan of the run of that colour changed.", _accuracy),
    Plot(
        "violations",
        "SLO violations",
        "Share of requests that were late, dropped, rejected or failed, by arrival.",
        _violations,
    ),
    Plot(
        "latency", "Latency", "Percentiles over answered queries; dotted: lowest and highest latency target.", _latency
    ),
)


def _plot(axes: Axes, run: Run, values: Sequence[float]) -> None:
    every = max(1, len(values) // _MARKS)
    axes.plot(run.middles_s, values, markevery=every, **run.look)  # type: ignore[arg-type]


def _percent(fraction: float | None) -> float:
    return float("nan") if fraction is None else 100 * fraction


def _label(axes: Axes, runs: Sequence[Run], ylabel: str) -> None:
    ends_s = (window.start_s + window.length_s for run in runs for window in run.windows[-1:])
    axes.set_xlabel("time since start (s)")
    axes.set_ylabel(ylabel)
    axes.set_xlim(0, max(ends_s, default=1.0))
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _slo_lines(axes: Axes, runs: Sequence[Run], ink: str) -> None:
    """The lowest and the highest latency target, named outside the axes, away from each other."""
    slos = {family: slo_s for run in runs for family, slo_s in run.report.slo_s.items()}
    ends = sorted({min(slos.values()), max(slos.values())}) if slos else []
    for slo_s, side in zip(ends, ("top", "bottom") if len(ends) > 1 else ("center",), strict=False):
        axes.axhline(1e3 * slo_s, color=ink, linewidth=1, linestyle=(0, (1, 2)))
        name = _slo_name(slo_s, slos)
        axes.text(1.01, 1e3 * slo_s, name, transform=axes.get_yaxis_transform(), va=side)


def _slo_name(slo_s: float, slos: Mapping[str, float]) -> str:
    first, *others = (family for family, slo in slos.items() if slo == slo_s)
    whose = () if len(others) == len(slos) - 1 else (_short(first) + (" …" if others else ""),)
    return "\n".join(("SLO", *whose, f"{1e3 * slo_s:g} ms"))


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _svg(plot: Plot, runs: Sequence[Run]) -> str:
    drawn = _saved(plot, runs, _SVG_INK, format="svg", transparent=True, metadata={"Date": None}).decode()
    return _inline(drawn, plot)


def _inline(drawn: str, plot: Plot) -> str:
    """An SVG document as an element that lives among others: its own ids, the page's font and ink, no fixed size."""
    body = drawn[drawn.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{plot.name}-', body)
    body = re.sub(r'\bxlink:href="#', f'href="#{plot.name}-', body).replace("url(#", f"url(#{plot.name}-")
    body = re.sub(r" ?font-family: [^;\"]*;?", "", body).replace(_SVG_INK, "currentColor")
    for place, colour in enumerate(COLOURS):
        body = body.replace(colour.lower(), f"var(--run{place}, {colour})")
    view = re.search(r'viewBox="[^"]*"', body)
    opening = f'<svg {view[0] if view else ""} role="img" aria-label="{plot.title}"><title>{plot.title}</title>'
    return re.sub(r"<svg[^>]*>", opening, body, count=1)
