"""Plots with a line for each run: over time, and the distribution of latency; importing this loads matplotlib."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from proteus_cli.domain.report import Report, Window
from proteus_cli.reporting.comparison import run_names
from proteus_cli.reporting.plots.plot_style import line_style
from proteus_cli.reporting.timeline import merge_windows, violation_frac, window_width_s

_MAX_POINTS = 240  # of a line
_MAX_POINTS_OF_MANY = 50  # of many runs, so that their lines can be told apart
_MANY = 4  # runs beyond which lines are coarser and thinner
_MARKS = 12  # markers on the first line …
_MARKS_OF_MANY = 6  # … and on each other one
_MAX_NAME = 12  # characters of a family
_LINEAR_POINTS = 10.0  # a larger loss, in percentage points, makes the scale one of square roots
_LOSSES = (0, 1, 5, 10, 20, 30, 50, 75, 100)  # ticks of that scale
_LINEAR_RATIO = 50.0  # a larger ratio between latencies makes the scale logarithmic
_LONG_RATIO = 200.0  # a larger ratio leaves a logarithmic axis with ticks at decades only
_MIDDLE = 0.5
PLAIN_TICKS = FuncFormatter(lambda value, _: f"{value:g}")


@dataclass(frozen=True, slots=True)
class PlottedRun:
    """A report as it is drawn: heading, line style, and windows coarse enough to see.

    ``start`` is where its first marker is, as a part of the distance between two, so that markers of runs differ.
    """

    heading: str
    report: Report
    windows: tuple[Window, ...]
    line_style: Mapping[str, Any]
    start: float

    @classmethod
    def all_of(cls, reports: Sequence[Report]) -> list[Self]:
        """The runs of ``reports`` of one trace."""
        width = window_width_s(reports, _MAX_POINTS if len(reports) <= _MANY else _MAX_POINTS_OF_MANY)
        return [
            cls(
                heading,
                report,
                merge_windows(report.seconds, width),
                line_style(place, among=len(reports)),
                place / len(reports),
            )
            for place, (heading, report) in enumerate(zip(run_names(reports), reports, strict=True))
        ]

    @property
    def middles_s(self) -> list[float]:
        """The middle of each window, where it is drawn."""
        return [window.start_s + window.length_s / 2 for window in self.windows]

    @property
    def answered_frac(self) -> float:
        """The part of all requests that was answered, late ones included."""
        return (self.report.served + self.report.late) / self.report.requests if self.report.requests else 0.0

    def line(self) -> Line2D:
        """The line of the run in a legend."""
        return Line2D([], [], label=self.heading, **self.line_style)


def demand(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """Arrivals per second as an area, and answers per second of each run."""
    longest = max(runs, key=lambda run: len(run.windows))
    demand_qps = [window.demand_qps for window in longest.windows]
    axes.fill_between(longest.middles_s, demand_qps, color=ink, alpha=0.16, linewidth=0, label="demand")
    for run in runs:
        _plot(axes, run, run.middles_s, [window.throughput_qps for window in run.windows])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    label_time_axis(axes, runs, "queries per second")


def accuracy(axes: Axes, runs: Sequence[PlottedRun], _ink: str) -> None:
    """Relative accuracy; of a few runs also a tick for each plan change, at the bottom."""
    lost, gained = 1.0, 0.0
    for run in runs:
        percents = [_percent(window.relative_accuracy) for window in run.windows]
        known = [percent for percent in percents if not math.isnan(percent)]
        lost, gained = max([lost, *(100 - percent for percent in known)]), max([gained, *(p - 100 for p in known)])
        _plot(axes, run, run.middles_s, percents)
    margin_frac = _draw_plan_changes(axes, runs) if len(runs) <= _MANY else 0.0
    _set_loss_scale(axes, lost, at_top=True, margin_frac=margin_frac, gained=gained)
    label_time_axis(axes, runs, "relative accuracy (%)")


def violations(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """The share of requests that missed their SLO; shaded, where the first run was without devices that it had lost."""
    for loss in runs[0].report.losses:
        back_s = runs[0].report.duration_s if loss.back_s is None else loss.back_s
        axes.axvspan(loss.at_s, back_s, color=ink, alpha=0.12, linewidth=0)
    lost = 1.0
    for run in runs:
        percents = [_percent(violation_frac(window)) for window in run.windows]
        lost = max([lost, *(percent for percent in percents if not math.isnan(percent))])
        _plot(axes, run, run.middles_s, percents)
    _set_loss_scale(axes, lost, at_top=False)
    label_time_axis(axes, runs, "violations (%)")


def latency_cdf(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """The part of all requests answered within a latency; those never answered keep the line below 100 %."""
    answered = [run for run in runs if run.report.latency_quantiles_s]
    slos_s = [slo_s for run in runs for slo_s in run.report.slo_s.values()]
    end_ms = 1.04e3 * max([*slos_s, *(run.report.latency_quantiles_s[-1] for run in answered), 1e-3])
    for run in answered:
        quantiles_s = run.report.latency_quantiles_s
        percents = 100 * run.answered_frac * np.linspace(0, 1, len(quantiles_s))
        _plot(axes, run, [*(1e3 * s for s in quantiles_s), end_ms], [*percents.tolist(), 100 * run.answered_frac])
    tenths_ms = [1e3 * run.report.latency_quantiles_s[len(run.report.latency_quantiles_s) // 10] for run in answered]
    if 0 < min(tenths_ms, default=0) < end_ms / _LINEAR_RATIO:
        _logarithmic(axes, min(tenths_ms) / 2, end_ms)
    else:
        axes.set_xlim(0, end_ms)
    _slo_lines(axes, runs, ink)
    axes.set_ylim(0, 101)
    axes.set_xlabel("latency (ms)")
    axes.set_ylabel("answered by then\n(% of all requests)")


def _plot(axes: Axes, run: PlottedRun, x: Sequence[float], y: Sequence[float]) -> None:
    every = max(1, len(y) // (_MARKS_OF_MANY if run.start else _MARKS))
    axes.plot(x, y, markevery=(int(run.start * every), every), **run.line_style)


def _percent(fraction: float | None) -> float:
    return float("nan") if fraction is None else 100 * fraction


def _draw_plan_changes(axes: Axes, runs: Sequence[PlottedRun]) -> float:
    """Draw ticks at the plan changes of runs, a row for each such run. Returns the part of the axes that they take."""
    changed, height = [run for run in runs if run.report.replans], 0.05
    for row, run in enumerate(reversed(changed)):
        axes.vlines(
            [replan.at_s for replan in run.report.replans],
            row * height,
            (row + 0.8) * height,
            transform=axes.get_xaxis_transform(),
            color=run.line_style["color"],
            linewidth=0.9,
        )
    return height * (len(changed) + 0.4) if changed else 0.0


def _set_loss_scale(axes: Axes, lost: float, *, at_top: bool, margin_frac: float = 0.0, gained: float = 0.0) -> None:
    """Set a percent axis from no loss, at 100 or at 0, to ``lost`` points; for large losses, by square roots.

    Cascades may have ``gained`` points: the axis begins above 100 then.
    """
    is_root = lost > _LINEAR_POINTS
    to_place, to_loss = (_root, _square) if is_root else (np.asarray, np.asarray)
    above = float(to_place(gained) + 0.025 * to_place(lost))
    nothing = float(to_loss(-above))
    end = float(to_loss((to_place(1.04 * lost) + margin_frac * above) / (1 - margin_frac)))
    if is_root and at_top:
        axes.set_yscale("function", functions=(lambda y: -_root(100 - y), lambda place: 100 - _square(-place)))
    elif is_root:
        axes.set_yscale("function", functions=(_root, _square))
    if is_root:
        ticks = [*(-points for points in _LOSSES if 0 < points <= gained), *(loss for loss in _LOSSES if loss <= lost)]
        axes.yaxis.set_major_locator(FixedLocator([100 - loss if at_top else loss for loss in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PLAIN_TICKS)
    axes.set_ylim(*((100 - end, 100 - nothing) if at_top else (nothing, end)))


def _root(values: Any) -> Any:
    return np.sign(values) * np.sqrt(np.abs(values))


def _square(values: Any) -> Any:
    return np.sign(values) * np.square(values)


def label_time_axis(axes: Axes, runs: Sequence[PlottedRun], ylabel: str) -> None:
    """Label the axes of something over time, which goes on until the longest of the runs has ended."""
    ends_s = (window.start_s + window.length_s for run in runs for window in run.windows[-1:])
    axes.set_xlabel("time since start (s)")
    axes.set_ylabel(ylabel)
    axes.set_xlim(0, max(ends_s, default=1.0))
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(PLAIN_TICKS)


def _logarithmic(axes: Axes, start: float, end: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(start, end)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if end < _LONG_RATIO * start else (1,)))
    axes.xaxis.set_major_formatter(PLAIN_TICKS)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _slo_lines(axes: Axes, runs: Sequence[PlottedRun], ink: str) -> None:
    """Draw the lowest and the highest latency target, named above the axes, one above the other."""
    slos = {family: slo_s for run in runs for family, slo_s in run.report.slo_s.items()}
    for row, slo_s in enumerate(sorted({min(slos.values()), max(slos.values())}) if slos else []):
        axes.axvline(1e3 * slo_s, color=ink, linewidth=1, linestyle=(0, (1, 2)))
        (across, _) = axes.transAxes.inverted().transform(axes.transData.transform((1e3 * slo_s, 0)))
        axes.annotate(
            _slo_name(slo_s, slos),
            (1e3 * slo_s, 1),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, 3 + 13 * row),
            textcoords="offset points",
            ha="right" if across > _MIDDLE else "left",
        )


def _slo_name(slo_s: float, slos: Mapping[str, float]) -> str:
    first, *others = (family for family, slo in slos.items() if slo == slo_s)
    whose = () if len(others) == len(slos) - 1 else (_short(first) + (" …" if others else ""),)
    return " ".join(("SLO", *whose, f"{1e3 * slo_s:g} ms"))


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 1]}…"
