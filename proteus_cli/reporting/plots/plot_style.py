"""The style of plots; importing this loads matplotlib.

Runs differ by colour (Okabe and Ito's, which the colour-blind can tell apart), by line style and by marker, so that
a copy without colours can be read, too.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7D7D7D")
INK = "#1a1a1a"
PNG_DPI = 160

_MAX_ALPHA = 0.6  # of a cell, so that the number in it can be read

_DASHES = ("-", "--", "-.", ":")  # 4 dashes and 7 colours have no common factor: 28 runs look different
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p", "h", "d")


def line_style(place: int, *, among: int) -> Mapping[str, Any]:
    """The line of the run in that ``place``; of more than a few, the first stands out."""
    is_thin = among > len(_DASHES) and place > 0
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linewidth": 1.2 if is_thin else 1.9,
        "markersize": 4.0 if is_thin else 5.0,
        "zorder": 2.0 if is_thin else 2.5,
    }


def draw_cells(axes: Axes, strength: "np.ndarray[tuple[int, int]]", colour: str) -> None:
    """The cells of a heat map, the first row on top, as strong as ``strength`` says, from 0 to 1; NaN is none."""
    rows, across = strength.shape
    shades = np.empty((rows, across, 4))
    shades[...] = to_rgba(colour)
    shades[..., 3] = _MAX_ALPHA * np.nan_to_num(strength)
    if across:
        axes.pcolormesh(np.arange(across + 1), np.arange(rows + 1), shades)
    axes.set_xlim(0, max(1, across))
    axes.set_ylim(rows, 0)
    axes.grid(visible=False)
    axes.tick_params(length=0)


def render_axes(draw: Callable[..., None], *, rows: int, size_inches: tuple[float, float], **options: object) -> bytes:
    """A picture of ``rows`` axes, one above the other, with one x axis; ``draw`` is called with all of them."""
    with mpl.rc_context(plot_settings("drawing", INK)):
        figure = Figure(figsize=size_inches, layout="constrained")
        draw(*figure.subplots(rows, sharex=True))
        return render(figure, dpi=PNG_DPI, facecolor="white", **options)


def render(figure: Figure, **options: object) -> bytes:
    """The figure as the bytes of an image file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def plot_settings(salt: str, ink: str) -> dict[Any, Any]:
    """Settings for matplotlib: ``salt`` determines the ids in SVG, ``ink`` colours everything but data."""
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    return {
        **dict.fromkeys(inked, ink),
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 11,
        "grid.alpha": 0.18,
        "grid.linewidth": 0.7,
        "legend.borderaxespad": 0.2,
        "legend.columnspacing": 1.4,
        "legend.frameon": False,
        "legend.handlelength": 3.0,
        "lines.linewidth": 1.7,
        "lines.markersize": 4.5,
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "text.parse_math": False,
    }
