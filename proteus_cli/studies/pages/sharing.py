"""The page of a sharing study; importing this loads matplotlib."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from matplotlib.axes import Axes

from proteus_cli.domain.catalog import VariantKey, variant_labels
from proteus_cli.domain.interference import ROUNDING, Where
from proteus_cli.reporting.plots.plot_style import COLOURS, draw_cells
from proteus_cli.studies.pages.section import Picture, Section, StudyTable, colour, legend, picture, results_of
from proteus_cli.studies.results import FULL_LOAD, SharingConclusion, SharingMember, SharingResult, format_load
from proteus_cli.studies.study import Study
from proteus_cli.units import counted, format_duration, format_percent, format_rate

_PAIR = 2
_LARGE_EXCESS = 0.5  # in the strongest colour, unless a cell has more
_FAINT = 0.35
_MAX_LINES = 7
_MAX_NAMED = 3
_QUIET_CORES = 0.1
_TITLES: dict[Where, str] = {"device": "Sharing one device", "neighbour": "Beside a neighbour"}
_PLACES: dict[Where, str] = {"device": "on the same device", "neighbour": "beside a neighbour"}

_TERMS = {
    "alone, together": "Alone: nothing else runs on the devices of the study. Together: all variants of the cell run.",
    "device, neighbour": "On one device, batches of the variants take turns. Neighbours are other devices of the "
    "machine, on cores of their own; they run at the same time.",
    "factor": "How many times as long a batch takes together. Where 1 is in the interval of the ratio, the factor is "
    "1: no cost is proven.",
    "load": "At 100 %, batches follow each other without a pause. Below, they arrive at random (Poisson), at that part "
    "of the rate that the variants can make alone.",
    "stream": "A program that does nothing but read memory: the worst that can be beside.",
    "×8": "Batches of 8 rows.",
}
_HOW = (
    "Rounds: each variant alone and all together, in random order, one straight after another. Drift cancels out.",
    "The ratio of a round is the time of a batch together over alone, in the mean of the middle half of the batches.",
    "On one core, that is the time for which the batch had the core, so that programs beside the study count less.",
    "The interval holds the centre of all rounds' ratios with 95 % confidence (Hodges and Lehmann, signed ranks).",
)


@dataclass(frozen=True, slots=True)
class Meeting:
    """A variant of a cell beside others. ``label`` and ``beside`` are variants, ``name`` and ``others`` with batches.

    ``is_pair``: it has one other, or a stream.
    """

    where: Where
    load: float
    member: SharingMember
    factor: float
    label: str
    beside: str
    name: str
    others: str
    is_stream: bool
    is_pair: bool

    @property
    def case(self) -> str:
        """``"digits-s ×8 beside digits-l ×4"``."""
        return f"{self.name} beside {self.others}"


_factor = attrgetter("factor")


def meetings_of(results: Sequence[SharingResult], labels: Mapping[VariantKey, str]) -> list[Meeting]:
    """Each variant of each cell; one of two that are the same."""
    found = []
    for result in results:
        names = [f"{labels[each.key]} ×{each.batch}" for each in result.members]
        for place, member in enumerate(result.members):
            if any(each.key == member.key for each in result.members[:place]):
                continue
            others = [name for other, name in enumerate(names) if other != place]
            beside, is_stream = result.beside(place), result.with_stream
            found.append(
                Meeting(
                    result.where,
                    result.load,
                    member,
                    result.factor(place),
                    labels[member.key],
                    labels[beside[0]] if beside else "stream",
                    names[place],
                    "a stream" if is_stream else " + ".join(others),
                    is_stream,
                    is_pair=len(names) == (1 if is_stream else _PAIR),
                )
            )
    return found


def section(study: Study) -> Section:
    """The costs of sharing, in sentences, heat maps and tables."""
    results = [result for _, result in results_of(study, SharingResult)]
    meetings = meetings_of(results, variant_labels(member.key for result in results for member in result.members))
    conclusion = msgspec.convert(study.conclusion or {"checks": (), "sharing_file": ""}, SharingConclusion)
    mps = f"CUDA's Multi-Process Service was {conclusion.mps}; the variants ran in one process, each slot in a stream."
    return Section(
        title=f"What sharing costs on {study.subject['device']}",
        question="How much longer do batches take where other variants share the device, or run beside it?",
        findings=[*_findings(results, meetings, conclusion), *_company(study)],
        how=[*_HOW, *([mps] if conclusion.mps else [])],
        pictures=[*_matrices(study.name, meetings), *_latency_lines(study.name, meetings)],
        tables=[table for table in _tables(meetings, conclusion) if table.rows],
        terms=_TERMS,
    )


# --- findings


def _findings(
    results: Sequence[SharingResult], meetings: Sequence[Meeting], conclusion: SharingConclusion
) -> Iterator[str]:
    for where, place in _PLACES.items():
        full = [each for each in meetings if each.where == where and each.load == FULL_LOAD and not each.is_stream]
        if full:
            yield _costs_of(place.capitalize(), full)
    kept = [
        sum(each.batch_s for each in result.members)
        / sum(each.batch_s * result.factor(place) for place, each in enumerate(result.members))
        for result in results
        if result.where == "device" and result.load == FULL_LOAD and not result.with_stream
    ]
    if kept:
        yield (
            f"Variants that share the device make {format_percent(min(kept))} to {format_percent(max(kept))} of the "
            "throughput that they would make if taking turns cost nothing."
        )
    if streams := [each for each in meetings if each.is_stream]:
        worst = max(streams, key=_factor)
        yield (
            f"The worst that can be beside, a stream of memory, costs at most a factor of {worst.factor:.2f}: "
            f"{worst.name} {_PLACES[worst.where]}."
        )
    if checks := conclusion.checks:
        worst_frac = max(check.error_frac for check in checks)
        yield (
            f"Pairs predict the throughput of {counted(len(checks), 'larger set')}, which the prediction has not seen, "
            f"to {format_percent(worst_frac)} at worst."
        )
    if conclusion.sharing_file:
        yield f"The costs at full load are in {conclusion.sharing_file}, where plans find them."


def _costs_of(place: str, meetings: Sequence[Meeting]) -> str:
    """The proven costs of one way to share, the highest by name, and the noise."""
    costly = sorted((each for each in meetings if each.factor != 1), key=_factor, reverse=True)
    unseen_frac = sorted(each.member.high / each.member.ratio - 1 for each in meetings)[len(meetings) // 2]
    noise = f"; costs of less than {format_percent(unseen_frac)} can't be told from noise here"
    end = f"{noise if unseen_frac > ROUNDING else ''}."
    cases = counted(len(meetings), "case")
    if not costly:
        return f"{place}, no cost is proven in {cases}{end}"
    named = "; ".join(
        f"{each.name} takes {each.factor:.2f} times as long beside {each.others}" for each in costly[:_MAX_NAMED]
    )
    return f"{place}, a cost is proven in {len(costly)} of {cases}. The highest: {named}{end}"


def _company(study: Study) -> Iterator[str]:
    """A sentence where other programs used the machine, as far as the system says."""
    measured = [cell.load for cell in study.good if cell.mode == "measured"]
    loads = [load for load in measured if {"machine_cores", "cpu_cores"} <= set(load)]
    others = sum(load["machine_cores"] - load["cpu_cores"] for load in loads) / max(len(loads), 1)
    if others > _QUIET_CORES:
        yield (
            f"Other programs used {others:.1f} cores meanwhile. They evict what is in the caches, too, and make the "
            "intervals wide: measure again when the machine is quiet."
        )


# --- pictures


def _matrices(name: str, meetings: Sequence[Meeting]) -> Iterator[Picture]:
    """A heat map for each way to share, and for small and large batches."""
    smallest: dict[str, int] = {}
    for each in meetings:
        smallest[each.label] = min(each.member.batch, smallest.get(each.label, each.member.batch))
    for where, title in _TITLES.items():
        pairs = [each for each in meetings if each.where == where and each.load == FULL_LOAD and each.is_pair]
        for size in ("small", "large"):
            cells = [each for each in pairs if (each.member.batch == smallest[each.label]) == (size == "small")]
            if cells:
                yield _matrix(f"{name}-{where}-{size}", f"{title}, {size} batches", cells)


def _matrix(name: str, title: str, cells: Sequence[Meeting]) -> Picture:
    rows = list(dict.fromkeys(each.name for each in cells))
    columns = list(dict.fromkeys((*(each.label for each in cells), *(each.beside for each in cells))))
    factors = np.full((len(rows), len(columns)), np.nan)
    for each in cells:
        at = rows.index(each.name), columns.index(each.beside)
        factors[at] = np.nanmax([factors[at], each.factor])

    def draw(axes: Axes) -> None:
        strongest = max(_LARGE_EXCESS, float(np.nanmax(factors)) - 1)
        draw_cells(axes, (factors - 1) / strongest, COLOURS[1])
        for (row, column), factor in np.ndenumerate(factors):
            text = "–" if np.isnan(factor) else "1" if factor == 1 else f"{factor:.2f}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", alpha=_FAINT if text == "–" else 1.0)
        lines: dict[str, Any] = {"color": axes.spines["left"].get_edgecolor(), "linewidth": 0.6, "alpha": _FAINT}
        axes.hlines(np.arange(len(rows) + 1), 0, len(columns), **lines)
        axes.vlines(np.arange(len(columns) + 1), 0, len(rows), **lines)
        axes.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=20, ha="right", rotation_mode="anchor")
        axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
        axes.set_xlabel("beside")

    return picture(
        name,
        title,
        "How many times as long a batch of the row's variant takes, beside that of the column. 1 is free: no cost is "
        "proven. – was not measured.",
        draw,
        height_inches=1.25 + 0.42 * len(rows),
    )


def _latency_lines(name: str, meetings: Sequence[Meeting]) -> Iterator[Picture]:
    """The p99 latency together over alone, by load, for each way to share; where more than one load was measured."""
    for where, title in _TITLES.items():
        by_case: dict[str, dict[float, float]] = {}
        for each in meetings:
            if each.where == where and each.is_pair and not each.is_stream:
                by_case.setdefault(each.case, {})[each.load] = each.member.together.p99_s / each.member.alone.p99_s
        found = [line for line in by_case.items() if len(line[1]) > 1]
        shown = dict(sorted(found, key=lambda line: -max(line[1].values()))[:_MAX_LINES])

        def draw(axes: Axes, shown: Mapping[str, Mapping[float, float]] = shown) -> None:
            for place, by_load in enumerate(shown.values()):
                loads = sorted(by_load)
                axes.plot([100 * load for load in loads], [by_load[load] for load in loads], "o-", color=colour(place))
            axes.axhline(1.0, color=axes.spines["left"].get_edgecolor(), linewidth=0.8, alpha=0.5)
            axes.set_ylim(bottom=0)
            axes.set_xlabel("load (%)")
            axes.set_ylabel("together over alone")

        if shown:
            about = (
                "How many times as high the 99th percentile of latency is as alone, at the same load of the device. "
                f"Waiting is part of it; at 100 % nothing waits. The {len(shown)} highest of {len(found)}."
            )
            yield picture(f"{name}-{where}-p99", f"{title}: p99 latency", about, draw, keys=legend(shown))


# --- tables


def _tables(meetings: Sequence[Meeting], conclusion: SharingConclusion) -> Iterator[StudyTable]:
    ways = [(place, [each for each in meetings if each.where == where]) for where, place in _PLACES.items()]
    for place, found in ways:
        yield StudyTable(
            f"What batches take {place}",
            ("variant", "load", "alone", "ratio", "95 % interval", "factor"),
            [
                (
                    each.case,
                    format_load(each.load),
                    format_duration(each.member.batch_s),
                    f"{each.member.ratio:.3f}",
                    f"{each.member.low:.2f} – {each.member.high:.2f}",
                    f"{each.factor:.2f}",
                )
                for each in found
            ],
            note="Plans count with the factor at full load.",
        )
    for place, found in ways:
        yield StudyTable(
            f"Latency and throughput {place}, alone → together",
            ("variant", "load", "p99", "rows/s"),
            [
                (
                    each.case,
                    format_load(each.load),
                    f"{format_duration(each.member.alone.p99_s)} → {format_duration(each.member.together.p99_s)}",
                    f"{each.member.alone.qps:,.0f} → {each.member.together.qps:,.0f}",
                )
                for each in found
            ],
            note="By the clock on the wall, with what other programs take. On one device, each has its part of the "
            "rate.",
        )
    rows = [
        (each.cell, format_rate(each.predicted_qps), format_rate(each.measured_qps), format_percent(each.error_frac))
        for each in conclusion.checks
    ]
    yield StudyTable(
        "Larger sets, predicted from pairs",
        ("set", "predicted", "measured", "error"),
        rows,
        note="Rows per second of all variants together. A prediction uses pairs at full load, and no larger set.",
    )
