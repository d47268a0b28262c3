"""The frontier between accuracy and throughput as a plot; importing this loads matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from proteus_cli.domain.plan import FrontierPoint
from proteus_cli.reporting.plots.plot_style import COLOURS, INK, render_axes
from proteus_cli.store import write_bytes

_SIZE_INCHES = (5.6, 4.4)
_ROUNDING_QPS = 1e-6  # an unserved rate below this is a rounding error of the solver
_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def write_frontier(path: Path, points: Sequence[FrontierPoint]) -> None:
    """Draw a sweep to ``path``, in the format of its file ending. Raises `ArtefactError`."""

    def draw(accuracy: Axes, served: Axes) -> None:
        _draw_accuracy(accuracy, points)
        _draw_served(served, points)
        for axes in (accuracy, served):
            _shade_over_demand(axes, points)

    kind = path.suffix.removeprefix(".")
    write_bytes(path, render_axes(draw, rows=2, size_inches=_SIZE_INCHES, format=kind))


def _draw_accuracy(axes: Axes, points: Sequence[FrontierPoint]) -> None:
    percents = [100 * point.relative_accuracy for point in points if point.relative_accuracy is not None]
    demand = [point.demand_qps for point in points if point.relative_accuracy is not None]
    axes.plot(demand, percents, color=COLOURS[0], marker="o", label="with cascades")
    plain = [(point.demand_qps, 100 * point.without_cascades) for point in points if point.without_cascades]
    if plain:
        axes.plot([qps for qps, _ in plain], [percent for _, percent in plain], color=COLOURS[1], label="without")
        axes.legend(loc="lower left")
    axes.set_ylabel("relative\naccuracy (%)")
    lowest, highest = min([95.0, *percents, *(percent for _, percent in plain)]), max([100.0, *percents])
    axes.set_ylim(lowest - 1, highest + 1)
    axes.tick_params(labelbottom=False)


def _draw_served(axes: Axes, points: Sequence[FrontierPoint]) -> None:
    demand = [point.demand_qps for point in points]
    axes.plot(demand, demand, color=INK, linewidth=1, linestyle=(0, (1, 2)), label="demand")
    axes.plot(demand, [point.served_qps for point in points], color=COLOURS[1], marker="s", label="served")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("demand (queries per second)")
    axes.set_ylabel("queries per\nsecond")
    axes.legend(loc="lower right")
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(_THOUSANDS)
    axes.yaxis.set_major_formatter(_THOUSANDS)


def _shade_over_demand(axes: Axes, points: Sequence[FrontierPoint]) -> None:
    """Shade the demands that the fleet can't serve in full."""
    over = [point.demand_qps for point in points if point.unserved_qps > _ROUNDING_QPS]
    first, last = points[0].demand_qps, points[-1].demand_qps
    margin = 0.02 * max(last - first, 1.0)
    axes.set_xlim(first - margin, last + margin)
    if over:
        axes.axvspan(over[0], last + margin, color=INK, alpha=0.08, linewidth=0)
        if not axes.get_xlabel():
            where = (0.99, 0.93)
            axes.annotate("more than the fleet serves", where, xycoords="axes fraction", ha="right", va="top")
