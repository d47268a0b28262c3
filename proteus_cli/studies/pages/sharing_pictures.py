"""Pictures of what sharing costs: heat maps of factors, and latencies by load; importing this loads matplotlib."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from proteus_cli.domain.interference import Where
from proteus_cli.reporting.plots.plot_style import COLOURS, draw_cells
from proteus_cli.studies.pages.drawing import colour, page_colour, picture
from proteus_cli.studies.pages.section import Picture
from proteus_cli.studies.results import FULL_LOAD, SharingMember, SharingResult

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
