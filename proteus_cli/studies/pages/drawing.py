"""Pictures of studies as inline SVG, in the style of all plots; importing this loads matplotlib."""

from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from proteus_cli.reporting.plots.plot_style import COLOURS, plot_settings, render
from proteus_cli.reporting.plots.plots import SVG, SVG_INK, inline
from proteus_cli.studies.pages.section import Picture

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
