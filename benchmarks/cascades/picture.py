"""Accuracy against demand, with and without cascades, live and simulated, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from benchmarks.cascades.live import LiveFamily, accuracy, mean
from proteus_cli.reporting.plots.plot_style import COLOURS, INK, render_axes
from proteus_cli.store import write_bytes

SIZE_INCHES = (7.0, 6.4)


def write_picture(path: Path, families: Sequence[LiveFamily]) -> None:
    """One plot for each family, in the format of the file's ending."""

    def draw(*axes: Axes) -> None:
        for each, of in zip(axes, families, strict=True):
            _draw(each, of)
        axes[0].legend(loc="upper right", fontsize=9)
        axes[-1].set_xlabel("demand, in multiples of the most accurate variant's throughput")

    kind = path.suffix.removeprefix(".")
    write_bytes(path, render_axes(draw, rows=len(families), size_inches=SIZE_INCHES, format=kind))


def _draw(axes: Axes, of: LiveFamily) -> None:
    multiples = [run.multiple for run in of.runs]
    for colour, marker, name in ((COLOURS[0], "o", "cascades"), (COLOURS[1], "s", "alone")):
        both = [run.cascades if name == "cascades" else run.alone for run in of.runs]
        label = "with cascades" if name == "cascades" else "variants alone"
        measured = [100 * (accuracy([each.live for each in rounds]) or 0.0) for rounds in both]
        expected = [100 * mean([each.simulated.effective_accuracy or 0.0 for each in rounds]) for rounds in both]
        axes.plot(multiples, measured, color=colour, marker=marker, label=f"{label}, live")
        axes.plot(multiples, expected, color=colour, linestyle="--", linewidth=1.2, label=f"{label}, simulated")
    axes.axhline(100 * of.best_accuracy, color=INK, linewidth=1, linestyle=":", label="most accurate variant")
    axes.set_title(of.name, loc="left")
    axes.set_ylabel("accuracy (%)")
