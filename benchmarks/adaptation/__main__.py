"""Live proteus beside live static plans on one trace of this machine, and how fast it follows steps; 20 minutes.

The peak is 3 times what the most accurate variants of the sample zoo carry. Models run on all cores but the last, which
is for the client and the front end. The same server with emulated devices, which take what was profiled and no more,
tells what is due to the machine. Simulated, on the same traces: proteus, and the oracle, which knows the demand.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks.adaptation import pages
from benchmarks.adaptation.lab import LOWEST, PEAK_MULTIPLE, Lab, laboratory
from benchmarks.adaptation.reaction import reactions, stairs
from benchmarks.adaptation.results import LEAST_ACCURATE, MOST_ACCURATE, ORACLE, PEAK, PROTEUS, Benchmark, Run
from benchmarks.machine import machine
from benchmarks.tables import put_between
from proteus_cli.domain.report import Report
from proteus_cli.store import made_by, write_bytes, write_json, write_text

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "adaptation.md"
ROUNDS, LASTS_S, STEPS, LOADING_STEPS, BUDGET = 3, 60.0, 5, 3, "40s"
ONCE = (MOST_ACCURATE, LEAST_ACCURATE)  # far off, whatever the round


def main() -> None:
    """Measure and deliver; exit with 1 where an aim is missed."""
    options = _options()
    with tempfile.TemporaryDirectory() as directory:
        done, first = _measured(laboratory(Path(directory) / "ws", options.budget), options)
    Console(width=150).print(pages.shown(done))
    if options.json is not None:
        write_json(options.json, done)
    if options.docs:
        write_bytes(DOCS / pages.PICTURE, pages.picture(first))
        write_text(PAGE, put_between(PAGE.read_text(encoding="utf-8"), pages.BEGIN, pages.END, pages.markdown(done)))
    raise SystemExit(0 if all(aim.is_reached for aim in pages.aims(done)) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS}, each with a trace of its own")
    parser.add_argument("--seconds", type=float, default=LASTS_S, help=f"of each trace: {LASTS_S:.0f}")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"in demand, with standbys: {STEPS}")
    parser.add_argument("--budget", default=BUDGET, help=f"for profiling: {BUDGET}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--docs", action="store_true", help="write the tables and the picture into docs/")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 10 or options.steps < 1:
        parser.error("--rounds and --steps must be above 0, --seconds at least 10")
    return options


def _measured(lab: Lab, options: argparse.Namespace) -> tuple[Benchmark, list[Report]]:
    """All figures, and what was measured and simulated in the first round."""
    start_s = time.monotonic()
    runs, first = list[Run](), list[Report]()
    for number in range(options.rounds):
        found = _round(lab, options.seconds, number)
        runs += [Run.of(report.policy, number, report) for report in found]
        first = first or [report for report in found if report.mode != "emulated"]
    _say(f"{options.steps} steps in demand with standbys, {LOADING_STEPS} without")
    asked = stairs(lab, options.steps, seed=options.rounds)
    followed = reactions(lab, asked, standbys=True)
    followed += reactions(lab, stairs(lab, LOADING_STEPS, seed=options.rounds + 1), standbys=False)
    return Benchmark(
        made_by=made_by(),
        command="python -m benchmarks.adaptation " + " ".join(sys.argv[1:]),
        machine=machine(),
        rounds=options.rounds,
        lasts_s=options.seconds,
        most_accurate_qps=lab.most_accurate_qps,
        lowest_qps=LOWEST * lab.most_accurate_qps,
        peak_qps=PEAK_MULTIPLE * lab.most_accurate_qps,
        low_qps=asked.low_qps,
        high_qps=asked.high_qps,
        seconds=time.monotonic() - start_s,
        runs=tuple(runs),
        reactions=followed,
    ), first


def _round(lab: Lab, lasts_s: float, number: int) -> list[Report]:
    """One trace, live in another order each round, emulated, and simulated."""
    trace = lab.trace(lasts_s, seed=number)
    plans = lab.plans(trace)
    names = [name for name in plans if number == 0 or name not in ONCE]
    found = []
    for name in names[number % len(names) :] + names[: number % len(names)]:
        _say(f"round {number + 1}: {name}, live")
        report, _ = lab.live(name, plans[name], trace)
        assert report.failed == 0, "no request may fail"
        found.append(report)
    for name in (PROTEUS, PEAK):
        _say(f"round {number + 1}: {name}, emulated")
        found.append(lab.live(name, plans[name], trace, "--emulate")[0])
    for name in (PROTEUS, ORACLE):
        _say(f"round {number + 1}: {name}, simulated")
        found.append(lab.simulated(name, plans[PROTEUS], trace))
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    main()
