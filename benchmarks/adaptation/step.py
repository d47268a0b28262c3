"""One step in demand, to 5.7 times as much, with models of 5 to 25 ms: what is lost in it; 9 minutes.

A live server on all cores of this machine, which the client shares, with the defaults of `proteus serve`. Demand is
half of what the most accurate variant carries, 5.7 times as much for 15 s, then half again: Poisson arrivals, another
trace each round. Each trace is sent once more to the same server with emulated devices, which take what was profiled:
what is lost there is not due to a machine that is slower than it was.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console

from benchmarks.adaptation.lab import Lab
from benchmarks.adaptation.own_models import own_models_lab
from benchmarks.adaptation.reaction import lost_frac, steps_of
from benchmarks.adaptation.results import PROTEUS
from benchmarks.machine import machine
from benchmarks.tables import Aim, Table, conclude, rich_table
from proteus_cli.domain.base import Value
from proteus_cli.domain.rules import Rules
from proteus_cli.store import write_json

LOW, MULTIPLE = 0.5, 5.7
LASTS_S = (12.0, 15.0, 8.0)
ROUNDS, BUDGET = 5, "60s"
SEED = 570
COLUMNS = (
    "round",
    "what",
    "queries",
    "lost, %",
    "in the first second",
    "in the second",
    "in 13 s after",
    "accuracy, %",
    "changes",
    "client late, ms",
)


class Round(Value, frozen=True):
    """What one round lost, as parts of its queries; the accuracy is that of what was answered, relative to the best."""

    low_qps: float
    high_qps: float
    requests: int
    violations: float
    first_second: float
    second_second: float
    afterwards: float
    relative_accuracy: float | None
    changes: int
    lag_p99_s: float | None
    is_emulated: bool = False


def main() -> None:
    """Measure all rounds, print them and the aims, and exit with 1 where one is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptation.step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"{ROUNDS}, each with a trace of its own")
    parser.add_argument("--budget", default=BUDGET, help=f"for profiling: {BUDGET}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds must be above 0")
    with tempfile.TemporaryDirectory() as directory:
        lab = own_models_lab(Path(directory) / "ws", options.budget)
        rounds = tuple(
            _round(lab, number, is_emulated=is_emulated)
            for number in range(options.rounds)
            for is_emulated in (False, True)
        )
    if options.json is not None:
        write_json(options.json, rounds)
    Console(width=130).print(rich_table(table(rounds)), machine())
    raise SystemExit(conclude(aims(rounds)))


def _round(lab: Lab, number: int, *, is_emulated: bool) -> Round:
    print(f"round {number + 1}, {_what(is_emulated=is_emulated)}", file=sys.stderr)
    low_qps = LOW * lab.most_accurate_qps
    rates = (low_qps, MULTIPLE * low_qps, low_qps)
    trace, starts_s = steps_of(lab, zip(rates, LASTS_S, strict=True), seed=SEED + number)
    report, load = lab.live(PROTEUS, lab.first_plan(trace, Rules()), trace, *(["--emulate"] if is_emulated else []))
    at_s, back_s = starts_s[1:]
    return Round(
        low_qps=low_qps,
        high_qps=MULTIPLE * low_qps,
        requests=report.requests,
        violations=report.slo_violation_ratio,
        first_second=lost_frac(load.records, at_s, at_s + 1),
        second_second=lost_frac(load.records, at_s + 1, at_s + 2),
        afterwards=lost_frac(load.records, at_s + 2, back_s),
        relative_accuracy=report.relative_accuracy,
        changes=len(report.replans),
        lag_p99_s=report.generator_lag_s,
        is_emulated=is_emulated,
    )


def _what(*, is_emulated: bool) -> str:
    return "emulated" if is_emulated else "measured"


def table(rounds: Sequence[Round]) -> Table:
    """A row for each round, measured and emulated."""
    return Table(
        f"From {rounds[0].low_qps:.0f} to {rounds[0].high_qps:.0f} queries per second in a step, and back",
        COLUMNS,
        tuple(_row(number // 2 + 1, each) for number, each in enumerate(rounds)),
        "Lost: not answered within the SLO of 150 ms. Accuracy: of what was answered, relative to the best variant. "
        "Client late: p99, by how much it sent later than it should have.",
    )


def _row(number: int, each: Round) -> tuple[str, ...]:
    parts = (each.violations, each.first_second, each.second_second, each.afterwards)
    accuracy = "–" if each.relative_accuracy is None else f"{100 * each.relative_accuracy:.2f}"
    late = "–" if each.lag_p99_s is None else f"{1000 * each.lag_p99_s:.1f}"
    lost = tuple(f"{100 * part:.2f}" for part in parts)
    return (
        str(number),
        _what(is_emulated=each.is_emulated),
        f"{each.requests:,}",
        *lost,
        accuracy,
        str(each.changes),
        late,
    )


def aims(rounds: Sequence[Round]) -> tuple[Aim, ...]:
    """Medians over the rounds, measured and emulated."""
    found: list[Aim] = []
    for is_emulated in (False, True):
        of = [each for each in rounds if each.is_emulated == is_emulated]
        what, violations = _what(is_emulated=is_emulated), 100 * median(each.violations for each in of)
        first = 100 * median(each.first_second for each in of)
        found.append(Aim(f"{what}, SLO violations, median of rounds", violations, 0.4, "%", True))
        found.append(Aim(f"{what}, lost in the first second of the step", first, 5.0, "%", True))
    return tuple(found)


if __name__ == "__main__":
    main()
