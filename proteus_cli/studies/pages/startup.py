"""The page of a start-up study; importing this loads matplotlib."""

from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes

from proteus_cli.studies.pages.section import (
    ABOVE_INCHES,
    Picture,
    Section,
    StudyTable,
    colour,
    legend,
    name_bars,
    picture,
    results_of,
)
from proteus_cli.studies.results import Starts, Startup
from proteus_cli.studies.study import Cell, Study
from proteus_cli.units import UNKNOWN, format_duration, format_size

_MAX_LINES = 7
_ROW_INCHES = 0.36
_FEW = 6
"""Minimum number of starts for the 95 % interval of a median."""

_FRESH = "Each start is a fresh process that imports the backend, loads the model and answers one row."
_COLD = (
    "Before a cold start, the files of the model and of the backend were evicted from the file cache; a warm start "
    "followed each. Files that other programs use at the time stay in the cache, as those of Python do."
)
_STAGES = ("Python starts", "the backend is imported", "the model is loaded", "the first row is answered")


def section(study: Study) -> Section:
    """The time to the first answer of each cell, and its parts."""
    cells = results_of(study, Startup)
    rows = [
        (cell.key, name, starts)
        for cell, found in cells
        for name, starts in (("cold", found.cold), ("warm", found.warm))
        if starts is not None
    ]
    return Section(
        title="Time to the first answer",
        question="How long does it take from nothing, a process that is not there yet, to the first answer of a model?",
        findings=[_finding(cell.key, found) for cell, found in cells] or ["Nothing was measured yet."],
        how=(_FRESH, _COLD, f"The interval of a median needs {_FEW} starts; it holds whatever their distribution."),
        pictures=[_distributions(study.name, cells[:_MAX_LINES]), _stages(study.name, rows)] if cells else (),
        tables=[_table(rows)] if cells else (),
        terms={
            "cold, warm": "Of the file cache: the files of the model are read from the disk, or are in memory already.",
            "median": "Half of the starts were faster.",
        },
    )


def _interval(starts: Starts) -> str:
    """The interval of the median; empty where there are too few starts."""
    return f"{format_duration(starts.low_s)} to {format_duration(starts.high_s)}" if starts.runs >= _FEW else ""


def _finding(key: str, found: Startup) -> str:
    def with_interval(starts: Starts) -> str:
        between = _interval(starts)
        return format_duration(starts.p50_s) + (f" ({between})" if between else "")

    cold = "" if found.cold is None else f", {with_interval(found.cold)} with a cold one"
    return f"{key}: {with_interval(found.warm)} with a warm file cache{cold}."


def _table(rows: Sequence[tuple[str, str, Starts]]) -> StudyTable:
    shown = []
    for key, name, starts in rows:
        read = [start.read_bytes for start in starts.starts if start.read_bytes is not None]
        times = format_duration(starts.p50_s), _interval(starts) or UNKNOWN, format_duration(starts.most_s)
        shown.append((key, name, str(starts.runs), *times, format_size(median(read)) if read else UNKNOWN))
    return StudyTable(
        "Starts",
        ("cell", "cache", "starts", "median", "95 % interval", "longest", "read from disk"),
        shown,
        note="Read from disk: the median. Little of it in a cold start means that the system did not let the files go.",
        of_text=frozenset({"cache"}),
    )


def _distributions(name: str, cells: Sequence[tuple[Cell, Startup]]) -> Picture:
    def draw(axes: Axes) -> None:
        for place, (_, found) in enumerate(cells):
            for starts, dashes in ((found.warm, "-"), (found.cold, "--")):
                if starts is not None:
                    times = sorted(start.answered_s for start in starts.starts)
                    parts = [100 * (rank + 1) / len(times) for rank in range(len(times))]
                    axes.step([times[0], *times], [0.0, *parts], where="post", color=colour(place), linestyle=dashes)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 101)
        axes.set_xlabel("time to the first answer (s)")
        axes.set_ylabel("starts (%)")

    about = "Part of the starts that had answered by then (ECDF). Dashed: with a cold file cache."
    return picture(f"{name}-ecdf", "Starts by time", about, draw, keys=legend(cell.key for cell, _ in cells))


def _stages(name: str, rows: Sequence[tuple[str, str, Starts]]) -> Picture:
    def draw(axes: Axes) -> None:
        for place, (_, _, starts) in enumerate(reversed(rows)):
            times = [(0.0, each.python_s, each.backend_s, each.loaded_s, each.answered_s) for each in starts.starts]
            left = 0.0
            for stage in range(len(_STAGES)):
                length = median(each[stage + 1] - each[stage] for each in times)
                axes.barh(place, length, left=left, height=0.62, color=colour(stage), alpha=0.8)
                left += length
        name_bars(axes, [f"{key}, {cache}" for key, cache, _ in rows], "seconds")

    height = ABOVE_INCHES + _ROW_INCHES * len(rows)
    return picture(
        f"{name}-stages", "What takes the time", "The median of each part.", draw,
        height_inches=height, is_wide=True, keys=legend(_STAGES),
    )  # fmt: skip
