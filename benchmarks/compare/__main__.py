"""This tree against another checkout of the project, in one run: what a request costs, simulator, planner, start-up.

Every figure is CPU time, user and system, of all processes of the program measured: on a busy machine it repeats where
wall time does not. Both trees take turns in short rounds, the order alternates, and every block starts new processes.
Each round gives a ratio, this tree over the other; the median of the ratios counts, and must be at most 1.03.

Both trees run on this Python and its packages; 9 minutes. Needs Linux, wrk and h2load (Debian: wrk, nghttp2-client).
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import environ
from pathlib import Path
from shutil import copytree

from benchmarks.frame import ROOT, Aim, Found, Run, Table, benchmark
from benchmarks.serving import load
from benchmarks.serving.peers import PROTEUS, Lab, Route, Server, laboratory, profile_and_plan, serving
from benchmarks.worlds import PAPER

MAX_RATIO = 1.03
SERVED: tuple[tuple[Route, ...], ...] = (
    (("tiny", "json"), ("tiny", "binary")),
    (("tiny", "grpc"),),
    (("cnn", "binary"),),
)
"""The routes of each server: gRPC by itself, a server for each family."""
PROBE = Path(__file__).with_name("probe.py")
LOAD_S, WARM_UP_S = 0.6, 0.3
SLO_S = 1.0  # so long that a busy machine makes no server refuse requests, which cost less than answers
HELPS = 3  # starts of `proteus --help` in a measurement: one is as short as a few ticks of the clock
BLOCKS, STARTS = 6, 16

Measure = Callable[[], float]
"""CPU seconds."""


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

    def take_turns(self, base: Measure, ours: Measure, rounds: int) -> None:
        """Measure both so many times, the other way round in every second round."""
        for _ in range(rounds):
            if len(self.pairs) % 2:
                ours_s = ours()
                self.pairs.append((base(), ours_s))
            else:
                base_s = base()
                self.pairs.append((base_s, ours()))


def found(*figures: PairedFigure) -> Found:
    """A row and an aim for each."""
    rows = []
    for each in figures:
        base, ours = (statistics.median(side) / each.unit_s for side in zip(*each.pairs, strict=True))
        low, middle, high = statistics.quantiles(each.ratios, n=4)
        cells = (f"{base:,.2f} {each.unit}", f"{ours:,.2f} {each.unit}", str(len(each.pairs)))
        rows.append((each.name, *cells, f"{middle:.3f}", f"{low:.3f}–{high:.3f}"))
    columns = ("figure", "other tree", "this tree", "rounds", "ratio: median", "quartiles")
    return Found(
        (Table("CPU time, this tree over the other", columns, tuple(rows)),),
        tuple(Aim(each.name, statistics.median(each.ratios), MAX_RATIO, "of the other", True) for each in figures),
    )


def help_(run: Run) -> Found:
    """Start-up of `proteus --help`."""
    figure = PairedFigure("start-up of proteus --help", "ms", 1e-3)
    figure.take_turns(lambda: _help_cpu_s(run.options.base), lambda: _help_cpu_s(ROOT), _starts(run))
    return found(figure)


def _starts(run: Run) -> int:
    return 4 if run.is_quick else STARTS


def _help_cpu_s(tree: Path) -> float:
    before_s = load.children_cpu_s()
    for _ in range(HELPS):
        command = (sys.executable, "-m", "proteus_cli", "--help")
        subprocess.run(command, env=_environment(tree), cwd=tree, check=True, stdout=subprocess.DEVNULL)
    return (load.children_cpu_s() - before_s) / HELPS


def _environment(tree: Path) -> dict[str, str]:
    return dict(environ) | {"PYTHONPATH": str(tree)}


# --- processes that measure a tree


def simulator(run: Run) -> Found:
    """CPU per query of a synthetic trace."""
    return _probed(run, "simulator", PairedFigure("simulator, per query", "µs", 1e-6))


def planner(run: Run) -> Found:
    """CPU of a call, the median over some demands."""
    return _probed(run, "planner", PairedFigure("planner, median call", "ms", 1e-3))


def _probed(run: Run, what: str, figure: PairedFigure) -> Found:
    for block in range(1 if run.is_quick else BLOCKS):
        run.say(f"{what}, block {block + 1}")
        with _probe(run.options.base, what) as of_base, _probe(ROOT, what) as of_ours:
            figure.take_turns(of_base, of_ours, max(run.rounds, 3))
    return found(figure)


@contextmanager
def _probe(tree: Path, what: str) -> Iterator[Measure]:
    """A process of that tree; each call has it measure once."""
    command = (sys.executable, str(PROBE), what, str(PAPER))
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


# --- servers


def requests(run: Run) -> Found:
    """CPU per request at saturation, and start-up of `proteus serve`."""
    start = PairedFigure("start-up of proteus serve", "ms", 1e-3)
    figures = {
        route: PairedFigure(f"{'-'.join(route)}, per request", "µs", 1e-6) for routes in SERVED for route in routes
    }
    with laboratory(run.options.base, SLO_S) as base:
        ours = replace(base, tree=ROOT, workspace=base.directory / "ours")
        copytree(base.workspace, ours.workspace)  # one profile for both, so that both batch and run alike
        profile_and_plan(ours)
        start.take_turns(lambda: _serve_cpu_s(base), lambda: _serve_cpu_s(ours), _starts(run))
        for block in range(1 if run.is_quick else BLOCKS):
            for routes in SERVED:
                run.say(f"{', '.join('-'.join(route) for route in routes)}, block {block + 1}")
                with serving(PROTEUS, routes, base) as of_base, serving(PROTEUS, routes, ours) as of_ours:
                    for route in routes:
                        base_cpu, our_cpu = (_request_cpu(server, route) for server in (of_base, of_ours))
                        figures[route].take_turns(base_cpu, our_cpu, max(run.rounds, 3))
    return found(start, *figures.values())


def _serve_cpu_s(lab: Lab) -> float:
    with serving(PROTEUS, [("tiny", "binary")], lab) as server:
        return server.process.tree.cpu_s()


def _request_cpu(server: Server, route: Route) -> Measure:
    """CPU seconds per request; the server is warm, and its answers are right."""
    target = server.target(route)
    load.saturate(target, WARM_UP_S)
    return lambda: 1e-6 * load.saturate(target, LOAD_S).cpu_us


def checkout(text: str) -> Path:
    """A checkout of the project."""
    base = Path(text).resolve()
    if not (base / "proteus_cli").is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of the project: it has no proteus_cli")
    return base


PARTS = {"help": help_, "simulator": simulator, "planner": planner, "requests": requests}

if __name__ == "__main__":
    load.require_tools()
    options = argparse.ArgumentParser(prog="python -m benchmarks.compare")
    options.add_argument("base", type=checkout, metavar="BASE", help="a checkout of the project to compare with")
    sys.exit(benchmark(__doc__, PARTS, rounds=6, parser=options))
