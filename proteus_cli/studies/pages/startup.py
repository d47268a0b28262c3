"""What a study of starts says; importing this loads matplotlib."""

from collections.abc import Callable, Sequence
from statistics import median

from matplotlib.axes import Axes

from proteus_cli.studies.pages.section import Picture, Section, StudyTable, colour, name_bars, page_colour, picture
from proteus_cli.studies.results import ProcessStart, Starts, Startup
from proteus_cli.studies.study import Cell, Study
from proteus_cli.units import UNKNOWN, format_duration, format_size

_MAX_LINES = 7
_ROW_INCHES, _ABOVE_INCHES = 0.36, 0.85
_FEW = 6
"""Of fewer starts, the 95 % interval of the median is unknown."""

_FRESH = "Each start is a fresh process that imports the backend, loads the model and answers one row."
_COLD = (
    "Before a cold start, the files of the model and of the backend were evicted from the file cache; a warm start "
    "followed each. Files that other programs use at the time stay in the cache, as those of Python do."
)
_STAGES: Sequence[tuple[str, Callable[[ProcessStart], float]]] = (
    ("Python starts", lambda start: start.python_s),
    ("the backend is imported", lambda start: start.backend_s - start.python_s),
    ("the model is loaded", lambda start: start.loaded_s - start.backend_s),
    ("the first row is answered", lambda start: start.answered_s - start.loaded_s),
)


def section(study: Study) -> Section:
    """The time to the first answer of each cell, and what takes it."""
    cells = [(cell, cell.read(Startup)) for cell in study.good]
    return Section(
        title="Time to the first answer",
        question="How long does it take from nothing, a process that is not there yet, to the first answer of a model?",
        findings=[_finding(cell, found) for cell, found in cells] or ["Nothing was measured yet."],
        how=(_FRESH, _COLD, f"The interval of a median needs {_FEW} starts; it holds whatever their distribution."),
        pictures=_pictures(study.name, cells) if cells else (),
        tables=[_table(cells)] if cells else (),
        terms={
            "cold, warm": "Of the file cache: the files of the model are read from the disk, or are in memory already.",
            "median": "Half of the starts were faster.",
        },
    )


def _finding(cell: Cell, found: Startup) -> str:
    cold = "" if found.cold is None else f", {_with_interval(found.cold)} with a cold one"
    return f"{cell.key}: {_with_interval(found.warm)} with a warm file cache{cold}."


def _with_interval(starts: Starts) -> str:
    between = f" ({format_duration(starts.low_s)} to {format_duration(starts.high_s)})" if starts.runs >= _FEW else ""
    return f"{format_duration(starts.p50_s)}{between}"


def _table(cells: Sequence[tuple[Cell, Startup]]) -> StudyTable:
    rows = [
        (cell.key, name, str(starts.runs), *_times(starts), _read(starts))
        for cell, found in cells
        for name, starts in (("cold", found.cold), ("warm", found.warm))
        if starts is not None
    ]
    return StudyTable(
        "Starts",
        ("cell", "cache", "starts", "median", "95 % interval", "longest", "read from disk"),
        rows,
        note="Read from disk: the median. Little of it in a cold start means that the system did not let the files go.",
        of_text=frozenset({"cache"}),
    )


def _times(starts: Starts) -> tuple[str, str, str]:
    between = f"{format_duration(starts.low_s)} to {format_duration(starts.high_s)}" if starts.runs >= _FEW else UNKNOWN
    return format_duration(starts.p50_s), between, format_duration(starts.most_s)


def _read(starts: Starts) -> str:
    known = [start.read_bytes for start in starts.starts if start.read_bytes is not None]
    return format_size(median(known)) if known else UNKNOWN


def _pictures(name: str, cells: Sequence[tuple[Cell, Startup]]) -> list[Picture]:
    return [_distributions(name, cells[:_MAX_LINES]), _stages(name, cells)]


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
    keys = [(page_colour(place), cell.key) for place, (cell, _) in enumerate(cells)]
    return picture(f"{name}-ecdf", "Starts by time", about, draw, keys=keys)


def _stages(name: str, cells: Sequence[tuple[Cell, Startup]]) -> Picture:
    rows = [
        (f"{cell.key}, {kind}", starts.starts)
        for cell, found in cells
        for kind, starts in (("cold", found.cold), ("warm", found.warm))
        if starts
    ]

    def draw(axes: Axes) -> None:
        for place, (_, starts) in enumerate(reversed(rows)):
            left = 0.0
            for number, (_, part) in enumerate(_STAGES):
                length = median(part(start) for start in starts)
                axes.barh(place, length, left=left, height=0.62, color=colour(number), alpha=0.8)
                left += length
        name_bars(axes, [label for label, _ in rows], "seconds")

    keys = [(page_colour(number), label) for number, (label, _) in enumerate(_STAGES)]
    height = _ABOVE_INCHES + _ROW_INCHES * len(rows)
    return picture(
        f"{name}-stages",
        "What takes the time",
        "The median of each part.",
        draw,
        height_inches=height,
        is_wide=True,
        keys=keys,
    )
