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
"""Of the SLO: a generator that is later than this is part of what was measured."""
_NONE = 0.6  # of the smallest part that a probe can see: where a probe without violations is drawn
_MAX_LINES = 7
_WIDE_RATIO = 10
_MOST = 4
"""Times the time of a cell: how much longer a search is proposed to last, at most."""

_OPEN_LOOP = "at random times (Poisson), open loop. Latency counts from the moment at which a request was to be sent."
_METHOD = (
    "The peak was bracketed by a sequential test of the part of requests that miss the SLO; then a line was fitted to "
    "the odds of a miss just below and above it. Misses come in clumps, and count as that many fewer."
)
_COUNTS = "and that counts as latency. Offer the load from another machine to be sure of the server's part."


def section(study: Study) -> Section:
    """The peaks of each cell, and how they were found."""
    cells = results_of(study, Peak)
    allowed = format_percent(1 - float(study.options["allowed_frac"] or 0))
    return Section(
        title=f"Peak rate of {_whose(study)}",
        question=f"How many requests per second can come, at random, so that at least {allowed} of them are answered "
        "within the latency target (SLO)?",
        findings=[_finding(cell, peak) for cell, peak in cells] + _longer(study, cells)
        or ["Nothing was measured yet."],
        how=[*_fixed(study), *_how(cells)],
        pictures=_pictures(study.name, cells, float(study.options["allowed_frac"] or 0)) if cells else (),
        tables=[_table(cells), _search_table(cells)] if cells else (),
        terms={
            "peak rate": "The highest rate at which, in the long run, no more than the allowed part misses the SLO.",
            "accuracy": "The effective accuracy near the peak: the mean accuracy of the variants that answered.",
            "SLO": "The latency target: a request that is answered later, or not at all, misses it.",
            "open loop": "Requests come at their times, whether or not earlier ones were answered, as users' do.",
            "greedy, proactive, nexus, …": "The batching rule: when a device starts a batch, and of how many requests.",
            "95 % interval": "Intervals that are found like this hold the true value in 95 of 100 studies.",
        },
    )


def _whose(study: Study) -> str:
    """What the peak is of, in a few words."""
    subject = study.subject
    named = next((subject[name] for name in ("family", "plan", "families") if name in subject), "each family")
    return f"{named} at {subject['server']}" if "server" in subject else named


def _finding(cell: Cell, peak: Peak) -> str:
    name = cell.key
    if peak.limit == "none":
        return f"{name}: no rate at all; even single requests miss the SLO of {format_duration(peak.slo_s)}."
    if peak.limit == "generator":
        return f"{name}: more than {format_rate(peak.low_qps)}, the most that was offered{_at_accuracy(peak)}."
    if peak.limit == "late_generator":
        return f"{name}: {_of_late_generator(peak)}"
    if peak.high_qps is None or not peak.is_found:
        return f"{name}: not found, as the time was too short; {_bounds(peak)}."
    sure = "" if peak.is_precise else "; a longer --budget, with --force, makes that narrower"
    between = f"from {format_qps(peak.low_qps)} to {format_rate(peak.high_qps)}"
    return f"{name}: {format_rate(peak.rate_qps)} ({between} with 95 % confidence{sure}){_at_accuracy(peak)}."


def _bounds(peak: Peak) -> str:
    """What is known of a peak that was not found."""
    low, high = peak.low_qps, peak.high_qps
    if low and high:
        return f"it is between {format_qps(low)} and {format_rate(high)}"
    if high:
        return f"it is less than {format_rate(high)}"
    return f"it is at least {format_rate(low)}" if low else "nothing is known of it"


def _longer(study: Study, cells: Sequence[tuple[Cell, Peak]]) -> list[str]:
    """A budget that is likely to find the peaks that were not found: the interval shrinks with the root of the time."""
    missed = [(cell, peak) for cell, peak in cells if peak.limit == "slo" and not peak.is_found]
    if not missed:
        return []
    times = [cell.took_s * min(max((math.log(peak.spread) / math.log(NARROW)) ** 2, 2), _MOST) for cell, peak in missed]
    needed_s = max(times) * len(study.cells)
    return [f"Measure longer: `--budget {math.ceil(needed_s / 30) / 2:g}min --force` is likely to suffice."]


def _at_accuracy(peak: Peak) -> str:
    """The accuracy at which the peak was reached, as a part of a sentence."""
    if peak.accuracy is None:
        return ", at an accuracy that the server does not tell"
    return f", at an accuracy of {format_percent(peak.accuracy)}{' (one variant, fixed)' if peak.variant else ''}"


def _of_late_generator(peak: Peak) -> str:
    carried = f"at least {format_rate(peak.low_qps)}" if peak.low_qps else "not known"
    late, slo = format_duration(peak.lag_s), format_duration(peak.slo_s)
    return (
        f"{carried}; this is no peak of what was asked. At the rates that missed the SLO of {slo}, the load generator "
        f"itself sent requests up to {late} late (p99). Measure when this machine is quiet, with "
        "--force, or offer the load from another one, with --url."
    )


def _fixed(study: Study) -> list[str]:
    """What of the accuracy the study holds fixed, in words."""
    if "server" in study.subject:
        return ["The server chose the variants, and so the accuracy."]
    if "plan" in study.subject:
        return ["The plan was fixed: the server did not change its variants for the load."]
    return ["Each cell is of one variant, which is fixed, and so is the accuracy."]


def _how(cells: Sequence[tuple[Cell, Peak]]) -> list[str]:
    requests = sum(peak.requests for _, peak in cells)
    found = [
        f"{requests:,} requests were offered, {_OPEN_LOOP}",
        _METHOD,
    ]
    late = [peak for _, peak in cells if peak.slo_s and peak.lag_s > _LATE_FRAC * peak.slo_s]
    if late:
        worst_s = max(peak.lag_s for peak in late)
        found.append(f"The load generator itself was late by up to {format_duration(worst_s)} (p99), {_COUNTS}")
    return found


def _table(cells: Sequence[tuple[Cell, Peak]]) -> StudyTable:
    rows = [
        (
            cell.key,
            cell.mode,
            _rate(_known_qps(peak)),
            f"{_rate(peak.low_qps)} to {_rate(peak.high_qps)}",
            or_unknown(peak.accuracy, format_percent),
            format_duration(peak.slo_s),
        )
        for cell, peak in cells
    ]
    columns = ("cell", "from", "peak (qps)", "95 % interval", "accuracy", "SLO")
    return StudyTable("Peaks", columns, rows, of_text=frozenset({"from"}))


def _known_qps(peak: Peak) -> float | None:
    """The peak; None where only bounds of it are known."""
    is_known = peak.limit == "none" or (peak.is_found and peak.limit != "late_generator")
    return peak.rate_qps if is_known else None


def _search_table(cells: Sequence[tuple[Cell, Peak]]) -> StudyTable:
    rows = [
        (
            cell.key,
            f"{peak.requests:,}",
            str(len(peak.probes)),
            UNKNOWN if peak.steepness is None else f"{peak.steepness:.0f}",
            f"{peak.clump:.0f}",
            format_duration(peak.lag_s),
        )
        for cell, peak in cells
    ]
    return StudyTable(
        "How it was found",
        ("cell", "requests", "rates", "steepness", "clump", "late"),
        rows,
        note="Rates: how many were offered. Steepness: one percent more rate makes the odds of a miss so many percent "
        "higher. Clump: misses that come together. Late: how late the generator sent requests (p99).",
    )


def _rate(qps: float | None) -> str:
    return or_unknown(qps, format_qps)


def _pictures(name: str, cells: Sequence[tuple[Cell, Peak]], allowed_frac: float) -> list[Picture]:
    return [_bars(name, cells), _probes(name, cells[:_MAX_LINES], allowed_frac)]


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
