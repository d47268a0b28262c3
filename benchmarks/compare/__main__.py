"""This tree against another checkout of the project, in one run: what a request costs, simulator, planner, start-up.

Every figure is CPU time, user and system, of all processes of the program measured: on a busy machine it repeats where
wall time does not. Both trees take turns in short rounds, the order alternates, and every block starts new processes.
Each round gives a ratio, this tree over the other; the median of the ratios counts, and must be at most 1.03.

Both trees run on this Python and its packages. Needs Linux, wrk and h2load (Debian: wrk, nghttp2-client).
"""

import argparse
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import environ
from pathlib import Path
from shutil import copytree, which

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.serving import load
from benchmarks.serving.lab import laboratory, profile_and_plan
from benchmarks.serving.peers import PEERS, Route
from benchmarks.serving.server import Lab, Server, serving
from benchmarks.serving.venvs import ROOT

MAX_RATIO = 1.03
SERVED: tuple[tuple[Route, ...], ...] = (
    (("tiny", "json"), ("tiny", "binary")),
    (("tiny", "grpc"),),
    (("cnn", "binary"),),
)
"""The routes of each server: gRPC by itself, a server for each family."""
PROTEUS = next(peer for peer in PEERS if peer.name == "proteus")
PARTS = ("help", "serve", "simulator", "planner", "requests")
PROBE = Path(__file__).with_name("probe.py")
DATA = Path("shared") / "data" / "proteus-asplos24"  # beside a checkout
WARM_UP_S = 0.3
SLO_S = 1.0  # so long that a busy machine makes no server refuse requests, which cost less than answers
HELPS = 3  # starts of `proteus --help` in a measurement: one is as short as a few ticks of the clock


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured: ``blocks`` of new processes with ``rounds`` each, loads of ``load_s``, ``starts``."""

    blocks: int
    rounds: int
    load_s: float
    starts: int


FULL, QUICK = Effort(6, 6, 0.6, 16), Effort(1, 3, 0.6, 4)


@dataclass(frozen=True, slots=True)
class PairedFigure:
    """One figure of both trees: pairs (other tree, this tree) in seconds, shown in ``unit`` of ``unit_s``."""

    name: str
    unit: str
    unit_s: float
    pairs: list[tuple[float, float]] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """This tree over the other, by round, sorted."""
        return sorted(ours / base for base, ours in self.pairs)

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def is_reached(self) -> bool:
        return self.ratio <= MAX_RATIO

    def take_turns(self, base: Callable[[], float], ours: Callable[[], float], rounds: int) -> None:
        """Measure both so many times, the other way round in every second round."""
        for _ in range(rounds):
            if len(self.pairs) % 2:
                ours_s = ours()
                self.pairs.append((base(), ours_s))
            else:
                base_s = base()
                self.pairs.append((base_s, ours()))


def main() -> None:
    """Measure, print a line for each figure, and exit with 1 where one is missed. Ctrl-C prints what is known."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    comparison = Comparison(options.base.resolve(), QUICK if options.quick else FULL)
    try:
        comparison.run(options.only)
    except KeyboardInterrupt:
        print("interrupted: what is known so far", file=sys.stderr)
    found = [figure for figure in comparison.figures.values() if len(figure.pairs) > 1]
    Console(width=None if sys.stdout.isatty() else 120).print(shown(found))
    print(f"{machine()}; {options.base}: the other tree")
    raise SystemExit(0 if found and all(each.is_reached for each in found) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="a checkout of the project to compare with")
    parser.add_argument(
        "--quick", action="store_true", help="few, short rounds: 2 minutes instead of 9, and no judgement to rest on"
    )
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="some of the figures")
    options = parser.parse_args()
    if not (options.base / "proteus_cli").is_dir():
        parser.error(f"{options.base} is no checkout of the project: it has no proteus_cli")
    for tool, package in (("wrk", "wrk"), ("h2load", "nghttp2-client")):
        if which(tool) is None:
            parser.error(f"no {tool} here; apt-get install {package}")
    return options


class Comparison:
    """The figures of both trees, which are filled part by part."""

    def __init__(self, base: Path, effort: Effort) -> None:
        self._base, self._effort = base, effort
        self.figures = {
            "help": PairedFigure("start-up of proteus --help", "ms", 1e-3),
            "serve": PairedFigure("start-up of proteus serve", "ms", 1e-3),
            "simulator": PairedFigure("simulator, per query", "µs", 1e-6),
            "planner": PairedFigure("planner, median call", "ms", 1e-3),
            **{
                "-".join(route): PairedFigure(f"{'-'.join(route)}, per request", "µs", 1e-6)
                for routes in SERVED
                for route in routes
            },
        }

    def run(self, parts: Sequence[str]) -> None:
        """Measure these of `PARTS`."""
        if "help" in parts:
            _say("start-up of proteus --help")
            self.figures["help"].take_turns(
                lambda: _help_cpu_s(self._base), lambda: _help_cpu_s(ROOT), self._effort.starts
            )
        for what in ("simulator", "planner"):
            if what in parts:
                self._probe(what)
        if "serve" in parts or "requests" in parts:
            _say("models, and a profiled workspace for each tree")
            with laboratory(1, tree=self._base, slo_s=SLO_S) as base:
                ours = replace(base, tree=ROOT, workspace=base.directory / "ours")
                copytree(base.workspace, ours.workspace)  # one profile for both, so that both batch and run alike
                profile_and_plan(ours)
                self._serve(base, ours, parts)

    def _probe(self, what: str) -> None:
        for block in range(self._effort.blocks):
            _say(f"{what}, block {block + 1} of {self._effort.blocks}")
            with _probe(self._base, what, self._base) as of_base, _probe(ROOT, what, self._base) as of_ours:
                self.figures[what].take_turns(of_base, of_ours, self._effort.rounds)

    def _serve(self, base: Lab, ours: Lab, parts: Sequence[str]) -> None:
        if "serve" in parts:
            _say("start-up of proteus serve")
            self.figures["serve"].take_turns(
                lambda: _serve_cpu_s(base), lambda: _serve_cpu_s(ours), self._effort.starts
            )
        for block in range(self._effort.blocks if "requests" in parts else 0):
            for routes in SERVED:
                _say(f"{', '.join('-'.join(route) for route in routes)}, block {block + 1} of {self._effort.blocks}")
                with serving(PROTEUS, routes, base) as of_base, serving(PROTEUS, routes, ours) as of_ours:
                    for route in routes:
                        measure_base = _request_cpu(of_base, route, self._effort.load_s)
                        measure_ours = _request_cpu(of_ours, route, self._effort.load_s)
                        self.figures["-".join(route)].take_turns(measure_base, measure_ours, self._effort.rounds)


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


# --- one measurement


def _help_cpu_s(tree: Path) -> float:
    before_s = load.children_cpu_s()
    for _ in range(HELPS):
        command = (sys.executable, "-m", "proteus_cli", "--help")
        subprocess.run(command, env=_environment(tree), cwd=tree, check=True, stdout=subprocess.DEVNULL)
    return (load.children_cpu_s() - before_s) / HELPS


def _serve_cpu_s(lab: Lab) -> float:
    with serving(PROTEUS, [("tiny", "binary")], lab) as server:
        return server.process.tree.cpu_s()


def _environment(tree: Path) -> dict[str, str]:
    return dict(environ) | {"PYTHONPATH": str(tree)}


@contextmanager
def _probe(tree: Path, what: str, base: Path) -> Iterator[Callable[[], float]]:
    """A process of that tree; each call has it measure once."""
    data = next((each for each in (ROOT.parent / DATA, base.parent / DATA) if each.is_dir()), ROOT.parent / DATA)
    command = (sys.executable, str(PROBE), what, str(data))
    with subprocess.Popen(
        command, env=_environment(tree), cwd=tree, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def measure() -> float:
            print("measure", file=stdin, flush=True)
            return float(stdout.readline())

        try:
            assert stdout.readline() == "ready\n", f"{what} of {tree} did not start"
            yield measure
        finally:
            process.kill()


def _request_cpu(server: Server, route: Route, load_s: float) -> Callable[[], float]:
    """What measures the CPU seconds per request at saturation; the server is warm, and its answers are right."""
    server.require_right(route)
    target = server.target(route)
    load.saturate(target, WARM_UP_S)
    return lambda: 1e-6 * load.saturate(target, load_s).cpu_us


# --- showing


def shown(found: Sequence[PairedFigure]) -> Table:
    table = Table(
        title=f"CPU time, this tree over the other: at most {MAX_RATIO:g}", title_justify="left", box=box.SIMPLE_HEAD
    )
    for column in ("figure", "other tree", "this tree", "rounds", "ratio: median", "quartiles", ""):
        table.add_column(column, justify="left" if column in {"figure", ""} else "right", no_wrap=True)
    for each in found:
        base, ours = (statistics.median(side) / each.unit_s for side in zip(*each.pairs, strict=True))
        low, _, high = statistics.quantiles(each.ratios, n=4)
        mark = "[green]✓[/]" if each.is_reached else "[red]✗[/]"
        table.add_row(
            each.name,
            f"{base:,.2f} {each.unit}",
            f"{ours:,.2f} {each.unit}",
            str(len(each.pairs)),
            f"{each.ratio:.3f}",
            f"{low:.3f}–{high:.3f}",
            mark,
        )
    return table


if __name__ == "__main__":
    main()
