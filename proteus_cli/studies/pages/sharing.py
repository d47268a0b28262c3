"""The page of a study of sharing; importing this loads matplotlib."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from matplotlib.axes import Axes

from proteus_cli.domain.catalog import VariantKey, variant_labels
from proteus_cli.domain.interference import ROUNDING, Where
from proteus_cli.reporting.plots.plot_style import COLOURS, draw_cells
from proteus_cli.studies.pages.section import Picture, Section, StudyTable, colour, page_colour, picture
from proteus_cli.studies.results import FULL_LOAD, SharingConclusion, SharingMember, SharingResult, format_load
from proteus_cli.studies.study import Study
from proteus_cli.units import counted, format_duration, format_percent, format_rate

_PAIR = 2
_LARGE_EXCESS = 0.5  # in the strongest colour, unless a cell has more
_FAINT = 0.35
_MAX_LINES = 7
_TITLES: dict[Where, str] = {"device": "Sharing one device", "neighbour": "Beside a neighbour"}


@dataclass(frozen=True, slots=True)
class Meeting:
    """One variant of a cell, by its label, and the labels of the others."""

    result: SharingResult
    place: int
    label: str
    beside: tuple[str, ...]

    @property
    def member(self) -> SharingMember:
        return self.result.members[self.place]

    @property
    def name(self) -> str:
        """With the rows of its batches: ``"digits-s ×8"``."""
        return f"{self.label} ×{self.member.batch}"

    @property
    def others(self) -> str:
        """``"digits-l ×4"``, several with a plus between them."""
        batches = [each.batch for place, each in enumerate(self.result.members) if place != self.place]
        if self.is_stream:
            return "a stream"
        return " + ".join(f"{label} ×{batch}" for label, batch in zip(self.beside, batches, strict=True))

    @property
    def case(self) -> str:
        """``"digits-s ×8 beside digits-l ×4"``."""
        return f"{self.name} beside {self.others}"

    @property
    def factor(self) -> float:
        return self.result.factor(self.place)

    @property
    def is_full(self) -> bool:
        return self.result.load == FULL_LOAD

    @property
    def is_stream(self) -> bool:
        return self.result.with_stream

    @property
    def is_pair(self) -> bool:
        """One other, or a stream."""
        return len(self.result.members) == (1 if self.is_stream else _PAIR)


def matrix_pictures(name: str, meetings: Sequence[Meeting]) -> list[Picture]:
    """A heat map for each way to share, and for small and large batches."""
    smallest: dict[str, int] = {}
    for each in meetings:
        smallest[each.label] = min(each.member.batch, smallest.get(each.label, each.member.batch))
    pictures = []
    for where, title in _TITLES.items():
        pairs = [each for each in meetings if each.result.where == where and each.is_full and each.is_pair]
        for size in ("small", "large"):
            cells = [each for each in pairs if (each.member.batch == smallest[each.label]) == (size == "small")]
            if cells:
                pictures.append(_matrix(f"{name}-{where}-{size}", f"{title}, {size} batches", cells))
    return pictures


def _matrix(name: str, title: str, cells: Sequence[Meeting]) -> Picture:
    rows = list(dict.fromkeys(each.name for each in cells))
    known = list(dict.fromkeys(each.label for each in cells))
    columns = [*known, *dict.fromkeys(each.beside[0] for each in cells if each.beside[0] not in known)]
    factors = np.full((len(rows), len(columns)), np.nan)
    for each in cells:
        at = rows.index(each.name), columns.index(each.beside[0])
        factors[at] = np.nanmax([factors[at], each.factor])

    def draw(axes: Axes) -> None:
        _draw_matrix(axes, rows, columns, factors)

    return picture(
        name,
        title,
        "How many times as long a batch of the row's variant takes, beside that of the column. 1 is free: no cost is "
        "proven. – was not measured.",
        draw,
        height_inches=1.25 + 0.42 * len(rows),
    )


def _draw_matrix(
    axes: Axes, rows: Sequence[str], columns: Sequence[str], factors: "np.ndarray[tuple[int, int]]"
) -> None:
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


def latency_pictures(name: str, meetings: Sequence[Meeting]) -> list[Picture]:
    """The p99 latency together over alone, by load, for each way to share; where more than one load was measured."""
    return [
        made
        for where, title in _TITLES.items()
        if (made := _latencies(f"{name}-{where}-p99", f"{title}: p99 latency", where, meetings)) is not None
    ]


def _latencies(name: str, title: str, where: Where, meetings: Sequence[Meeting]) -> Picture | None:
    lines: dict[str, dict[float, float]] = {}
    for each in meetings:
        if each.result.where == where and each.is_pair and not each.is_stream:
            by_load = lines.setdefault(f"{each.name} beside {each.others}", {})
            by_load[each.result.load] = each.member.together.p99_s / each.member.alone.p99_s
    found = [line for line in lines.items() if len(line[1]) > 1]
    shown = sorted(found, key=lambda line: -max(line[1].values()))[:_MAX_LINES]
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        for place, (_, by_load) in enumerate(shown):
            loads = sorted(by_load)
            axes.plot([100 * load for load in loads], [by_load[load] for load in loads], "o-", color=colour(place))
        axes.axhline(1.0, color=axes.spines["left"].get_edgecolor(), linewidth=0.8, alpha=0.5)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("load (%)")
        axes.set_ylabel("together over alone")

    keys = [(page_colour(place), label) for place, (label, _) in enumerate(shown)]
    about = (
        "How many times as high the 99th percentile of latency is as alone, at the same load of the device. Waiting is "
        f"part of it; at 100 % nothing waits. The {len(shown)} highest of {len(found)}."
    )
    return picture(name, title, about, draw, keys=keys)


_MAX_NAMED = 3
_QUIET_CORES = 0.1
_WHERE: tuple[Where, ...] = ("device", "neighbour")
_PLACES = {"device": "on the same device", "neighbour": "beside a neighbour"}

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
class _Found:
    """The cells, what their variants are called, and what they say together."""

    results: Sequence[SharingResult]
    labels: dict[VariantKey, str]
    conclusion: SharingConclusion

    @property
    def meetings(self) -> list[Meeting]:
        """Each variant of each cell."""
        return [
            Meeting(
                result,
                place,
                self.labels[member.key],
                tuple(self.labels[key] for key in result.beside(place)) or ("stream",),
            )
            for result in self.results
            for place, member in enumerate(result.members)
            if place == [each.key for each in result.members].index(member.key)  # one of two that are the same
        ]

    def at(self, where: Where) -> list[Meeting]:
        return [each for each in self.meetings if each.result.where == where]


def section(study: Study) -> Section:
    """What sharing costs, in sentences, heat maps and tables."""
    results = [cell.read(SharingResult) for cell in study.good]
    labels = variant_labels(member.key for result in results for member in result.members)
    conclusion = (
        SharingConclusion((), "") if not study.conclusion else msgspec.convert(study.conclusion, SharingConclusion)
    )
    found = _Found(results, labels, conclusion)
    return Section(
        title=f"What sharing costs on {study.subject['device']}",
        question="How much longer do batches take where other variants share the device, or run beside it?",
        findings=[*_findings(found), *_company(study)],
        how=[*_HOW, *_mps(conclusion)],
        pictures=[*matrix_pictures(study.name, found.meetings), *latency_pictures(study.name, found.meetings)],
        tables=[table for table in _tables(found) if table.rows],
        terms=_TERMS,
    )


def _findings(found: _Found) -> Iterator[str]:
    for where in _WHERE:
        meetings = [
            each for each in found.meetings if each.result.where == where and each.is_full and not each.is_stream
        ]
        if meetings:
            yield from _costs_of(where, meetings)
    yield from _kept(found)
    streams = [each for each in found.meetings if each.is_stream]
    if streams:
        worst = max(streams, key=_factor)
        yield (
            f"The worst that can be beside, a stream of memory, costs at most a factor of {worst.factor:.2f}: "
            f"{worst.name} {_PLACES[worst.result.where]}."
        )
    if checks := found.conclusion.checks:
        worst_frac = max(check.error_frac for check in checks)
        yield (
            f"Pairs predict the throughput of {counted(len(checks), 'larger set')}, which the prediction has not seen, "
            f"to {format_percent(worst_frac)} at worst."
        )
    if found.conclusion.sharing_file:
        yield f"The costs at full load are in {found.conclusion.sharing_file}, where plans find them."


def _kept(found: _Found) -> Iterator[str]:
    """What all variants of a device make together, of what they would if turns cost nothing."""
    kept = [
        sum(each.batch_s for each in result.members)
        / sum(each.batch_s * result.factor(place) for place, each in enumerate(result.members))
        for result in found.results
        if result.where == "device" and result.load == FULL_LOAD and not result.with_stream
    ]
    if kept:
        yield (
            f"Variants that share the device make {format_percent(min(kept))} to {format_percent(max(kept))} of the "
            "throughput that they would make if taking turns cost nothing."
        )


def _company(study: Study) -> Iterator[str]:
    """Whether other programs used the machine, as far as the system says."""
    measured = [cell.load for cell in study.good if cell.mode == "measured"]
    loads = [load for load in measured if {"machine_cores", "cpu_cores"} <= set(load)]
    others = sum(load["machine_cores"] - load["cpu_cores"] for load in loads) / max(len(loads), 1)
    if others > _QUIET_CORES:
        yield (
            f"Other programs used {others:.1f} cores meanwhile. They evict what is in the caches, too, and make the "
            "intervals wide: measure again when the machine is quiet."
        )


_factor = attrgetter("factor")


def _costs_of(where: Where, meetings: Sequence[Meeting]) -> Iterator[str]:
    costly = sorted((each for each in meetings if each.factor != 1), key=_factor, reverse=True)
    unseen_frac = sorted(each.member.high / each.member.ratio - 1 for each in meetings)[len(meetings) // 2]
    noise = (
        f"; costs of less than {format_percent(unseen_frac)} can't be told from noise here"
        if unseen_frac > ROUNDING
        else ""
    )
    if not costly:
        yield f"{_PLACES[where].capitalize()}, no cost is proven in {counted(len(meetings), 'case')}{noise}."
        return
    named = "; ".join(
        f"{each.name} takes {each.factor:.2f} times as long beside {each.others}" for each in costly[:_MAX_NAMED]
    )
    yield (
        f"{_PLACES[where].capitalize()}, a cost is proven in {len(costly)} of {counted(len(meetings), 'case')}. "
        f"The highest: {named}{noise}."
    )


def _mps(conclusion: SharingConclusion) -> list[str]:
    if not conclusion.mps:
        return []
    return [
        f"CUDA's Multi-Process Service was {conclusion.mps}; the variants ran in one process, each slot in a stream."
    ]


# --- tables


def _tables(found: _Found) -> Iterator[StudyTable]:
    for make in (_cost_table, _latency_table):
        yield from (make(found, where) for where in _WHERE)
    yield _checks(found)


def _cost_table(found: _Found, where: Where) -> StudyTable:
    rows = [
        (
            each.case,
            format_load(each.result.load),
            format_duration(each.member.batch_s),
            f"{each.member.ratio:.3f}",
            f"{each.member.low:.2f} – {each.member.high:.2f}",
            f"{each.factor:.2f}",
        )
        for each in found.at(where)
    ]
    return StudyTable(
        f"What batches take {_PLACES[where]}",
        ("variant", "load", "alone", "ratio", "95 % interval", "factor"),
        rows,
        note="Plans count with the factor at full load.",
    )


def _latency_table(found: _Found, where: Where) -> StudyTable:
    rows = [
        (
            each.case,
            format_load(each.result.load),
            f"{format_duration(each.member.alone.p99_s)} → {format_duration(each.member.together.p99_s)}",
            f"{each.member.alone.qps:,.0f} → {each.member.together.qps:,.0f}",
        )
        for each in found.at(where)
    ]
    return StudyTable(
        f"Latency and throughput {_PLACES[where]}, alone → together",
        ("variant", "load", "p99", "rows/s"),
        rows,
        note="By the clock on the wall, with what other programs take. On one device, each has its part of the rate.",
    )


def _checks(found: _Found) -> StudyTable:
    rows = [
        (
            check.cell,
            format_rate(check.predicted_qps),
            format_rate(check.measured_qps),
            format_percent(check.error_frac),
        )
        for check in found.conclusion.checks
    ]
    return StudyTable(
        "Larger sets, predicted from pairs",
        ("set", "predicted", "measured", "error"),
        rows,
        note="Rows per second of all variants together. A prediction uses pairs at full load, and no larger set.",
    )
