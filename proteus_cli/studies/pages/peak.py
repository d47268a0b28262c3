"""The page of a peak study; importing this loads matplotlib."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from proteus_cli.studies.pages.section import (
    ABOVE_INCHES,
    ROW_INCHES,
    Picture,
    Section,
    StudyTable,
    colour,
    legend,
    name_bars,
    picture,
    results_of,
)
from proteus_cli.studies.results import NARROW, Peak
from proteus_cli.studies.study import Cell, Study
from proteus_cli.units import UNKNOWN, format_duration, format_percent, format_qps, format_rate, or_unknown

_LATE_FRAC = 0.05
"""A generator that is later than this fraction of the SLO is part of the measurement."""
_NONE = 0.6  # of the smallest part that a probe can see: where a probe without violations is drawn
_MAX_LINES = 7
_WIDE_RATIO = 10
_MOST = 4
"""Maximum of a proposed budget, as a multiple of the time of a cell."""

_OPEN_LOOP = "at random times (Poisson), open loop. Latency counts from the moment at which a request was to be sent."
_METHOD = (
    "The peak was bracketed by a sequential test of the part of requests that miss the SLO; then a line was fitted to "
    "the odds of a miss just below and above it. Misses come in clumps, and count as that many fewer."
)
_COUNTS = "and that counts as latency. Offer the load from another machine to be sure of the server's part."


def section(study: Study) -> Section:
    """The peak of each cell, and how it was found."""
    cells, allowed_frac = results_of(study, Peak), float(study.options["allowed_frac"] or 0)
    subject = study.subject
    named = next((subject[name] for name in ("family", "plan", "families") if name in subject), "each family")
    return Section(
        title=f"Peak rate of {named}" + (f" at {subject['server']}" if "server" in subject else ""),
        question=f"How many requests per second can come, at random, so that at least "
        f"{format_percent(1 - allowed_frac)} of them are answered within the latency target (SLO)?",
        findings=[*(f"{cell.key}: {_finding(peak)}" for cell, peak in cells), *_longer(study, cells)]
        or ["Nothing was measured yet."],
        how=_how(study, [peak for _, peak in cells]),
        pictures=[_bars(study.name, cells), _probes(study.name, cells[:_MAX_LINES], allowed_frac)] if cells else (),
        tables=_tables(cells) if cells else (),
        terms={
            "peak rate": "The highest rate at which, in the long run, no more than the allowed part misses the SLO.",
            "accuracy": "The effective accuracy near the peak: the mean accuracy of the variants that answered.",
            "SLO": "The latency target: a request that is answered later, or not at all, misses it.",
            "open loop": "Requests come at their times, whether or not earlier ones were answered, as users' do.",
            "greedy, proactive, nexus, …": "The batching rule: when a device starts a batch, and of how many requests.",
            "95 % interval": "Intervals that are found like this hold the true value in 95 of 100 studies.",
        },
    )


def _finding(peak: Peak) -> str:
    low, high, slo = peak.low_qps, peak.high_qps, format_duration(peak.slo_s)
    at_least = f"at least {format_rate(low)}" if low else ""
    if peak.accuracy is None:
        accuracy = ", at an accuracy that the server does not tell"
    else:
        fixed = " (one variant, fixed)" if peak.variant else ""
        accuracy = f", at an accuracy of {format_percent(peak.accuracy)}{fixed}"
    if peak.limit == "none":
        return f"no rate at all; even single requests miss the SLO of {slo}."
    if peak.limit == "generator":
        return f"more than {format_rate(low)}, the most that was offered{accuracy}."
    if peak.limit == "late_generator":
        return (
            f"{at_least or 'not known'}; this is no peak of what was asked. At the rates that missed the SLO of {slo}, "
            f"the load generator itself sent requests up to {format_duration(peak.lag_s)} late (p99). Measure when "
            "this machine is quiet, with --force, or offer the load from another one, with --url."
        )
    if high is None or not peak.is_found:
        if low and high:
            known = f"it is between {format_qps(low)} and {format_rate(high)}"
        elif high:
            known = f"it is less than {format_rate(high)}"
        else:
            known = f"it is {at_least}" if low else "nothing is known of it"
        return f"not found, as the time was too short; {known}."
    sure = "" if peak.is_precise else "; a longer --budget, with --force, makes that narrower"
    between = f"from {format_qps(low)} to {format_rate(high)}"
    return f"{format_rate(peak.rate_qps)} ({between} with 95 % confidence{sure}){accuracy}."


def _longer(study: Study, cells: Sequence[tuple[Cell, Peak]]) -> list[str]:
    """A budget that is likely to find the missing peaks: the interval shrinks with the root of the time."""
    times = [
        cell.took_s * min(max((math.log(peak.spread) / math.log(NARROW)) ** 2, 2), _MOST)
        for cell, peak in cells
        if peak.limit == "slo" and not peak.is_found
    ]
    if not times:
        return []
    needed_min = math.ceil(max(times) * len(study.cells) / 30) / 2
    return [f"Measure longer: `--budget {needed_min:g}min --force` is likely to suffice."]


def _how(study: Study, peaks: Sequence[Peak]) -> list[str]:
    fixed = "Each cell is of one variant, which is fixed, and so is the accuracy."
    if "server" in study.subject:
        fixed = "The server chose the variants, and so the accuracy."
    elif "plan" in study.subject:
        fixed = "The plan was fixed: the server did not change its variants for the load."
    late = [peak.lag_s for peak in peaks if peak.slo_s and peak.lag_s > _LATE_FRAC * peak.slo_s]
    how = [fixed, f"{sum(peak.requests for peak in peaks):,} requests were offered, {_OPEN_LOOP}", _METHOD]
    if late:
        how.append(f"The load generator itself was late by up to {format_duration(max(late))} (p99), {_COUNTS}")
    return how


def _tables(cells: Sequence[tuple[Cell, Peak]]) -> list[StudyTable]:
    peaks, searches = [], []
    for cell, peak in cells:
        is_known = peak.limit == "none" or (peak.is_found and peak.limit != "late_generator")
        peaks.append(
            (
                cell.key,
                cell.mode,
                format_qps(peak.rate_qps) if is_known else UNKNOWN,
                f"{format_qps(peak.low_qps)} to {or_unknown(peak.high_qps, format_qps)}",
                or_unknown(peak.accuracy, format_percent),
                format_duration(peak.slo_s),
            )
        )
        searches.append(
            (
                cell.key,
                f"{peak.requests:,}",
                str(len(peak.probes)),
                or_unknown(peak.steepness, "{:.0f}".format),
                f"{peak.clump:.0f}",
                format_duration(peak.lag_s),
            )
        )
    return [
        StudyTable(
            "Peaks",
            ("cell", "from", "peak (qps)", "95 % interval", "accuracy", "SLO"),
            peaks,
            of_text=frozenset({"from"}),
        ),
        StudyTable(
            "How it was found",
            ("cell", "requests", "rates", "steepness", "clump", "late"),
            searches,
            note="Rates: how many were offered. Steepness: one percent more rate makes the odds of a miss so many "
            "percent higher. Clump: misses that come together. Late: how late the generator sent requests (p99).",
        ),
    ]


def _bars(name: str, cells: Sequence[tuple[Cell, Peak]]) -> Picture:
    def draw(axes: Axes) -> None:
        for place, (_, peak) in enumerate(reversed(cells)):
            axes.barh(place, peak.rate_qps, color=colour(0), height=0.6, alpha=0.75)
            if peak.high_qps is not None:
                axes.plot([peak.low_qps, peak.high_qps], [place, place], color="#010203", linewidth=1.6)
        name_bars(axes, [cell.key for cell, _ in cells], "peak rate (queries per second)")

    height = ABOVE_INCHES + ROW_INCHES * len(cells)
    return picture(
        f"{name}-peaks",
        "Peak rate",
        "Bars: the peak. Lines: its 95 % interval.",
        draw,
        height_inches=height,
        is_wide=True,
    )


def _probes(name: str, cells: Sequence[tuple[Cell, Peak]], allowed_frac: float) -> Picture:
    def draw(axes: Axes) -> None:
        for place, (_, peak) in enumerate(cells):
            for probe in peak.probes:
                part = probe.violations / probe.requests if probe.violations else _NONE / max(probe.requests, 1)
                marker = "o" if probe.violations else "v"
                axes.plot(probe.rate_qps, 100 * part, marker, color=colour(place), markersize=4, alpha=0.8)
        axes.axhline(100 * allowed_frac, color="#010203", linewidth=1, linestyle=(0, (1, 2)))
        axes.set_xscale("log")
        axes.set_yscale("log")
        label_logarithmic(axes.xaxis, [probe.rate_qps for _, peak in cells for probe in peak.probes])
        label_logarithmic(axes.yaxis)
        axes.set_xlabel("offered rate (queries per second)")
        axes.set_ylabel("requests that\nmiss the SLO (%)")

    about = "Each mark is a rate that was offered; a triangle had no miss at all. Dotted: what is allowed."
    return picture(f"{name}-probes", "Misses by rate", about, draw, keys=legend(cell.key for cell, _ in cells))


def label_logarithmic(axis: Axis, values: Sequence[float] = ()) -> None:
    """Numbers along an axis that is logarithmic already: where all ``values`` are near, 1, 2, 5, 10, … would be few."""
    is_narrow = bool(values) and max(values) < _WIDE_RATIO * min(values)
    axis.set_major_locator(MaxNLocator(6) if is_narrow else LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(NullFormatter())
