"""The re-planning of another checkout beside this one's, on clumps of arrivals, as a picture: docs/clumps.png.

`python -m benchmarks.arrivals.before BASE` replays the same arrivals in both trees, each with its own defaults on this
Python and its packages. Simulated. BASE is a checkout of the project as it was; that of the picture is b86a017.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from matplotlib.axes import Axes

from benchmarks.arrivals.kinds import clumps
from benchmarks.arrivals.rows import VALIDATION
from benchmarks.planner_instances import PAPER
from proteus_cli.domain.report import Window
from proteus_cli.replay.trace import read_trace, to_csv
from proteus_cli.reporting.plots.plot_style import INK, line_style, render_axes
from proteus_cli.reporting.timeline import merge_windows, violation_frac
from proteus_cli.store import write_bytes

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "clumps.png"
FLEET, SLO = "cpu:20,v100:10,gtx1080ti:10", "300ms"
DURATION_S, WINDOW_S = 240.0, 4.0
ACCURACY_FROM = 90.0  # percent, where the axis begins


class Replayed(msgspec.Struct):
    """What both trees write into a report, of that which is drawn."""

    slo_violation_ratio: float
    relative_accuracy: float
    max_accuracy_drop: float
    seconds: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A run as it is drawn."""

    name: str
    run: Replayed

    @property
    def label(self) -> str:
        run = self.run
        return (
            f"{self.name}: {100 * run.slo_violation_ratio:.2f} % violations, {100 * run.relative_accuracy:.2f} % "
            f"accuracy, largest drop {run.max_accuracy_drop:.1f} points"
        )


def main() -> None:
    """Replay in both trees and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arrivals.before", description=__doc__)
    parser.add_argument("base", type=Path, metavar="BASE", help="a checkout of the project as it was")
    base = parser.parse_args().base.resolve()
    if not (base / "proteus_cli").is_dir():
        parser.error(f"{base} is no checkout of the project: it has no proteus_cli")
    if not PAPER.is_dir():
        parser.error(f"{PAPER} is not there, which has the profiles")
    with TemporaryDirectory() as directory:
        trace = Path(directory) / "clumps.csv"
        trace.write_text(_trace(), encoding="utf-8")
        lines = [
            Line(name, _replayed(tree, trace, Path(directory) / name))
            for name, tree in (("before", base), ("now", ROOT))
        ]
    for line in lines:
        print(line.label)
    write_bytes(PICTURE, picture(lines))


def _trace() -> str:
    """The first trace of the row `clumps`."""
    shared = read_trace(PAPER / "medium-normal_load.csv.gz")
    mix = {family: count / len(shared) for family, count in shared.counts(0.0, np.inf).items()}
    return to_csv(clumps(mix, DURATION_S, np.random.default_rng(VALIDATION[0])))


def _replayed(tree: Path, trace: Path, workspace: Path) -> Replayed:
    workspace.mkdir()
    _proteus(tree, workspace, "profile", "--from-csv", str(PAPER / "profiles.csv"), "--slo", SLO)
    _proteus(tree, workspace, "replay", str(trace), "--fleet", FLEET, "--load-time", "0s", "-o", "report.json")
    return msgspec.json.decode((workspace / "report.json").read_bytes(), type=Replayed)


def _proteus(tree: Path, workspace: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "proteus_cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    subprocess.run(command, cwd=workspace, env=environment, check=True, stdout=subprocess.DEVNULL)


def picture(lines: Sequence[Line]) -> bytes:
    """Demand, accuracy and violations over time, above each other (PNG)."""

    def draw(demand: Axes, accuracy: Axes, violations: Axes) -> None:
        windows = merge_windows(lines[-1].run.seconds, 1.0)
        demand.fill_between(
            _middles_s(windows), [each.demand_qps for each in windows], color=INK, alpha=0.3, linewidth=0
        )
        demand.set_ylabel("queries per second")
        for place, line in enumerate(lines):
            style = {**line_style(len(lines) - 1 - place, among=len(lines)), "marker": ""}
            windows = merge_windows(line.run.seconds, WINDOW_S)
            middles_s = _middles_s(windows)
            accuracy.plot(middles_s, [_percent(each.relative_accuracy) for each in windows], **style, label=line.label)
            violations.plot(middles_s, [_percent(violation_frac(each)) for each in windows], **style)
        accuracy.set_ylabel("relative accuracy (%)")
        accuracy.set_ylim(ACCURACY_FROM, 100)
        violations.set_ylabel("violations (%)")
        violations.set_ylim(bottom=0)
        violations.set_xlabel("time since start (s)")
        violations.set_xlim(0, DURATION_S)
        handles, labels = accuracy.get_legend_handles_labels()
        demand.legend(handles, labels, loc="lower left", bbox_to_anchor=(0.0, 1.02), fontsize=9)

    return render_axes(draw, rows=3, size_inches=(8.0, 7.0), format="png")


def _middles_s(windows: Sequence[Window]) -> list[float]:
    return [each.start_s + each.length_s / 2 for each in windows]


def _percent(fraction: float | None) -> float:
    return float("nan") if fraction is None else 100 * fraction


if __name__ == "__main__":
    main()
