"""The parts of a page about a study: sentences, tables and pictures; importing this loads matplotlib."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proteus_cli.domain.base import require
from proteus_cli.reporting.plots.plot_style import COLOURS, plot_settings, render
from proteus_cli.reporting.plots.plots import SVG, SVG_INK, inline
from proteus_cli.studies.study import Study


@dataclass(frozen=True, slots=True)
class StudyTable:
    """Cells as text; the first column names the row. ``of_text`` are the columns of words; others are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    of_text: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        require(all(len(row) == len(self.columns) for row in self.rows), f"a row of `{self.title}` has other columns")


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG element, what it is, and what one sees in it. ``is_wide``: it scrolls on a phone, as its labels matter.

    ``keys``: the colours that it has, and what they are, for a legend.
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


def page_colour(place: int) -> str:
    """The same colour as CSS: the page may have another one where it is dark."""
    number = place % len(COLOURS)
    return f"var(--run{number}, {COLOURS[number]})"
