"""How close the simulator is to the live server: one trace both ways on this machine, and the differences.

`make bench`. It profiles the sample zoo, replays the bundled burst trace against a live server and in simulation, for
several rounds, with one variant on each device and with cascades on shared ones, and prints both and the difference
beside what is aimed for. It exits with 1 where a median is beyond that. Shared machines are noisy: the median and the
range over the rounds are shown.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.tables import Aim, conclude
from proteus_cli.domain.report import Report
from proteus_cli.store import read_json

AIMS: dict[
    str, tuple[float, str, Callable[[Report], float]]
] = {  # measure → (largest difference, unit, how to read it off a report)
    "relative accuracy": (0.5, "points", lambda report: 100 * (report.relative_accuracy or 0.0)),
    "SLO violation ratio": (1.0, "points", lambda report: 100 * report.slo_violation_ratio),
    "mean batch size": (10.0, "% of live", lambda report: report.mean_batch or 0.0),
}

RULES: dict[str, tuple[str, ...]] = {
    "one variant on each device": (),
    "cascades, several variants on each device": ("--cascades", "--residency", "memory"),
}
"""What plans are made with."""


def main() -> int:
    """Run the benchmark, and print its table and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", default="500qps", help="the busiest 10 s of the trace")
    parser.add_argument("--budget", default="60s", help="for profiling")
    parser.add_argument("--workspace", type=Path, help="use this one, profiled as it is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        workspace = options.workspace or Path(directory) / "ws"
        if options.workspace is None:
            _proteus("init", str(workspace))
            _proteus("profile", "--budget", options.budget, "--workspace", str(workspace))
        by_rules = {
            name: [_round(workspace, options.rate, seed, rules) for seed in range(options.rounds)]
            for name, rules in RULES.items()
        }
    return conclude([aim for name, rounds in by_rules.items() for aim in shown(rounds, name)])


def _round(workspace: Path, rate: str, seed: int, rules: tuple[str, ...]) -> tuple[Report, Report]:
    """The same scaled trace, from the same plan, live and simulated."""
    trace = str(workspace / "traces" / "burst.csv")
    there = ("--workspace", str(workspace))
    calm = f"{float(rate.removesuffix('qps')) * 0.16:.0f}qps"
    _proteus("plan", "--demand", calm, *rules, "-o", str(_plan(workspace)), *there)
    reports = []
    for mode in ("--serve", "--plan"):
        output = workspace / f"report{mode}.json"
        arguments = ("replay", trace, "--scale-to", rate, "--seed", str(seed), mode, str(_plan(workspace)))
        _proteus(*arguments, "-o", str(output), *there)
        reports.append(read_json(output, Report, hint="the benchmark wrote it"))
    live, simulated = reports
    assert live.requests == simulated.requests, "both must replay the same trace"
    assert live.failed == 0, "no request may fail"
    return live, simulated


def _plan(workspace: Path) -> Path:
    return workspace / "plans" / "parity.json"


def _proteus(*arguments: str) -> None:
    command = (sys.executable, "-m", "proteus_cli", "-q", *arguments)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def shown(rounds: list[tuple[Report, Report]], rules: str) -> list[Aim]:
    """Print the figures of the rounds by some rules, each live and simulated, and return what was to be reached."""
    aims = list[Aim]()
    table = Table(
        "measure", "live", "simulated", "difference: median (range)", "aim", title=f"live against simulated: {rules}"
    )
    for measure, (aim, unit, read) in AIMS.items():
        pairs = [(read(live), read(simulated)) for live, simulated in rounds]
        scale = [100 / live if unit == "% of live" else 1.0 for live, _ in pairs]
        gaps = [abs(live - simulated) * by for (live, simulated), by in zip(pairs, scale, strict=True)]
        what = f"{rules}: {measure}, median difference of live and simulated"
        aims.append(Aim(what, statistics.median(gaps), aim, unit, is_most=True))
        table.add_row(
            measure,
            f"{statistics.median(live for live, _ in pairs):.2f}",
            f"{statistics.median(simulated for _, simulated in pairs):.2f}",
            f"{statistics.median(gaps):.2f} ({min(gaps):.2f}–{max(gaps):.2f}) {unit}",
            f"≤ {aim:g}",
        )
    Console().print(table)
    lag_ms = 1000 * max(live.generator_lag_s or 0.0 for live, _ in rounds)
    print(f"{len(rounds)} rounds of {rounds[0][0].requests:,} requests; generator lag p99 at most {lag_ms:.1f} ms")
    return aims


if __name__ == "__main__":
    sys.exit(main())
