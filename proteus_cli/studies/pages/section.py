"""The parts of a page about a study: sentences, tables and pictures; importing this loads matplotlib."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proteus_cli.domain.base import require
from proteus_cli.reporting.plots.plot_style import COLOURS, plot_settings, render
from proteus_cli.reporting.plots.plots import SVG, SVG_INK, inline
from proteus_cli.studies.study import Cell, ResultT, Study


@dataclass(frozen=True, slots=True)
class StudyTable:
    """Cells as text. The first column names the row; columns not in ``of_text`` are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    of_text: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        require(all(len(row) == len(self.columns) for row in self.rows), f"a row of `{self.title}` has other columns")


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG element with its title and an explanation. ``is_wide``: it scrolls on a phone to keep its labels legible.

    ``keys`` are the colours and labels of its legend.
    """

    title: str
    about: str
    svg: str
    is_wide: bool = False
    keys: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """``findings`` are sentences that answer the question; ``how`` says how it was measured, and how sure that is.

    ``terms`` explains the words that a reader may not know.
    """

    title: str
    question: str
    findings: Sequence[str]
    how: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[StudyTable] = ()
    terms: Mapping[str, str] = field(default_factory=dict)


SectionOf = Callable[[Study], Section]


def results_of(study: Study, kind: type[ResultT]) -> list[tuple[Cell, ResultT]]:
    """The good cells of a study with their results."""
    return [(cell, cell.read(kind)) for cell in study.good]


WIDTH_INCHES = 5.6
HEIGHT_INCHES = 2.95
ROW_INCHES, ABOVE_INCHES = 0.34, 0.85


def picture(
    name: str,
    title: str,
    about: str,
    draw: Callable[[Axes], None],
    *,
    height_inches: float = HEIGHT_INCHES,
    is_wide: bool = False,
    keys: Sequence[tuple[str, str]] = (),
) -> Picture:
    """One pair of axes that ``draw`` fills. ``name`` is unique on the page: ids within the picture begin with it."""
    with mpl.rc_context(plot_settings(name, SVG_INK)):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        draw(figure.add_subplot())
        svg = inline(render(figure, **SVG), name=name, title=title)
    return Picture(title, about, svg, is_wide, keys)


def name_bars(axes: Axes, names: Sequence[str], xlabel: str) -> None:
    """Name horizontal bars from 0 on, the first at the top, which is drawn at the highest place."""
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)
    axes.set_xlabel(xlabel)


def colour(place: int) -> str:
    """The colour of the line in that place."""
    return COLOURS[place % len(COLOURS)]


def legend(labels: Iterable[str]) -> list[tuple[str, str]]:
    """The colours of lines, by place, and their labels. The page may have other colours where it is dark."""
    return [(f"var(--run{place % len(COLOURS)}, {colour(place)})", label) for place, label in enumerate(labels)]
