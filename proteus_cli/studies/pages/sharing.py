"""The page of a sharing study; importing this loads matplotlib."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from matplotlib.axes import Axes

from proteus_cli.domain.catalog import VariantKey, variant_labels
from proteus_cli.domain.interference import ROUNDING
from proteus_cli.reporting.plots.plot_style import COLOURS, draw_cells
from proteus_cli.studies.pages.section import Picture, Section, StudyTable, picture, results_of
from proteus_cli.studies.sharing import SharingConclusion, SharingMember, SharingResult
from proteus_cli.studies.study import Study
from proteus_cli.units import counted, format_duration, format_percent, format_rate

_PAIR = 2
_LARGE_EXCESS = 0.5  # in the strongest colour, unless a cell has more
_FAINT = 0.35
_MAX_NAMED = 3

_TERMS = {
    "alone, together": "Alone: one variant runs. Together: batches of all variants of the cell take turns.",
    "factor": "How many times as long a batch takes together. Where 1 is in the interval of the ratio, the factor is "
    "1: no cost is proven.",
    "×8": "Batches of 8 rows.",
}
_HOW = (
    "Rounds: each variant alone and all together, in random order, one straight after another. Drift cancels out.",
    "Batches follow each other without a pause.",
    "The ratio of a round is the time of a batch together over alone, in the mean of the middle half of the batches.",
    "On one core, that is the time for which the batch had the core, so that programs beside the study count less.",
    "The interval holds the centre of all rounds' ratios with 95 % confidence (Hodges and Lehmann, signed ranks).",
)


@dataclass(frozen=True, slots=True)
class Meeting:
    """A variant of a cell with ``name``, beside ``others``; both with their batches."""

    member: SharingMember
    factor: float
    name: str
    others: Sequence[str]


def meetings_of(results: Sequence[SharingResult], labels: Mapping[VariantKey, str]) -> list[Meeting]:
    """Each variant of each cell; one of two that are the same."""
    found = []
    for result in results:
        names = [f"{labels[each.key]} ×{each.batch}" for each in result.members]
        for place, member in enumerate(result.members):
            if names.index(names[place]) == place:
                others = [name for other, name in enumerate(names) if other != place]
                found.append(Meeting(member, result.factor(place), names[place], others))
    return found


def section(study: Study) -> Section:
    """The costs of sharing, in sentences, heat maps and tables."""
    results = [result for _, result in results_of(study, SharingResult)]
    meetings = meetings_of(results, variant_labels(member.key for result in results for member in result.members))
    conclusion = msgspec.convert(study.conclusion or {"checks": (), "sharing_file": ""}, SharingConclusion)
    mps = f"CUDA's Multi-Process Service was {conclusion.mps}; the variants ran in one process, each slot in a stream."
    return Section(
        title=f"What sharing costs on {study.subject['device']}",
        question="How much longer do batches take where other variants share the device?",
        findings=[*_findings(results, meetings, conclusion)],
        how=[*_HOW, *([mps] if conclusion.mps else [])],
        pictures=[*_matrices(study.name, meetings)],
        tables=[table for table in _tables(meetings, conclusion) if table.rows],
        terms=_TERMS,
    )


# --- findings


def _findings(
    results: Sequence[SharingResult], meetings: Sequence[Meeting], conclusion: SharingConclusion
) -> Iterator[str]:
    kept = [
        sum(each.batch_s for each in result.members)
        / sum(each.batch_s * result.factor(place) for place, each in enumerate(result.members))
        for result in results
    ]
    if kept:
        yield _costs_of(meetings)
        yield (
            f"Variants that share the device make {format_percent(min(kept))} to {format_percent(max(kept))} of the "
            "throughput that they would make if taking turns cost nothing."
        )
    if checks := conclusion.checks:
        worst_frac = max(check.error_frac for check in checks)
        yield (
            f"Pairs predict the throughput of {counted(len(checks), 'larger set')}, which the prediction has not seen, "
            f"to {format_percent(worst_frac)} at worst."
        )
    if conclusion.sharing_file:
        yield f"The costs are in {conclusion.sharing_file}, where plans find them."


def _costs_of(meetings: Sequence[Meeting]) -> str:
    """The proven costs, the highest by name, and the noise."""
    costly = sorted((each for each in meetings if each.factor != 1), key=lambda each: -each.factor)
    unseen_frac = sorted(each.member.high / each.member.ratio - 1 for each in meetings)[len(meetings) // 2]
    noise = f"; costs of less than {format_percent(unseen_frac)} can't be told from noise here"
    end = f"{noise if unseen_frac > ROUNDING else ''}."
    cases = counted(len(meetings), "case")
    if not costly:
        return f"No cost is proven in {cases}{end}"
    named = "; ".join(
        f"{each.name} takes {each.factor:.2f} times as long beside {' + '.join(each.others)}"
        for each in costly[:_MAX_NAMED]
    )
    return f"A cost is proven in {len(costly)} of {cases}. The highest: {named}{end}"


# --- pictures


def _matrices(name: str, meetings: Sequence[Meeting]) -> Iterator[Picture]:
    """A heat map of pairs for small and for large batches."""
    smallest = {key: min(each.member.batch for each in meetings if each.member.key == key)
                for key in {each.member.key for each in meetings}}  # fmt: skip
    pairs = [each for each in meetings if len(each.others) < _PAIR]
    for size in ("small", "large"):
        is_small = size == "small"
        cells = [each for each in pairs if (each.member.batch == smallest[each.member.key]) == is_small]
        if cells:
            yield _matrix(f"{name}-{size}", f"Sharing the device, {size} batches", cells)


def _matrix(name: str, title: str, cells: Sequence[Meeting]) -> Picture:
    rows = list(dict.fromkeys(each.name for each in cells))
    columns = list(dict.fromkeys((*(each.name for each in cells), *(each.others[0] for each in cells))))
    factors = np.full((len(rows), len(columns)), np.nan)
    for each in cells:
        at = rows.index(each.name), columns.index(each.others[0])
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


# --- tables


def _tables(meetings: Sequence[Meeting], conclusion: SharingConclusion) -> Iterator[StudyTable]:
    cases = [f"{each.name} beside {' + '.join(each.others)}" for each in meetings]
    yield StudyTable(
        "What batches take together",
        ("variant", "alone", "ratio", "95 % interval", "factor"),
        [
            (
                case,
                format_duration(each.member.batch_s),
                f"{each.member.ratio:.3f}",
                f"{each.member.low:.2f} – {each.member.high:.2f}",
                f"{each.factor:.2f}",
            )
            for case, each in zip(cases, meetings, strict=True)
        ],
        note="Plans count with the factor.",
    )
    yield StudyTable(
        "p99 and throughput, alone → together",
        ("variant", "p99", "rows/s"),
        [
            (
                case,
                f"{format_duration(each.member.alone.p99_s)} → {format_duration(each.member.together.p99_s)}",
                f"{each.member.alone.qps:,.0f} → {each.member.together.qps:,.0f}",
            )
            for case, each in zip(cases, meetings, strict=True)
        ],
        note="With the time of other programs. Each variant has its part of the rate.",
    )
    rows = [
        (each.cell, format_rate(each.predicted_qps), format_rate(each.measured_qps), format_percent(each.error_frac))
        for each in conclusion.checks
    ]
    yield StudyTable(
        "Larger sets, predicted from pairs",
        ("set", "predicted", "measured", "error"),
        rows,
        note="Rows per second of all variants together. A prediction uses pairs, and no larger set.",
    )
