"""The controller on many kinds of arrivals, beside its oracle, the paper's rules, and a plan that never changes.

Simulated, on defaults. Prints one table and a line per aim, and exits with 1 where one is missed. What needs
`../shared/data/proteus-asplos24` beside the repository is left out without it.
"""

import argparse
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.arrivals import pages
from benchmarks.arrivals.results import Benchmark, Found
from benchmarks.arrivals.rows import OURS, POLICIES, ROWS, TUNING, UNSEEN, VALIDATION, Row, Site
from benchmarks.machine import machine
from benchmarks.planner_instances import PAPER
from proteus_cli.cli.console import loudness
from proteus_cli.simulation.conditions import JITTERS
from proteus_cli.store import made_by, to_json

SEEDS = {"tuning": TUNING, "validation": VALIDATION}


def main() -> None:
    """Measure the rows and show what they found; exit with 1 where an aim is missed."""
    options = _options()
    loudness.quiet = True
    with TemporaryDirectory() as directory, Console(stderr=True).status("") as status:
        seeds = SEEDS[options.seeds]
        policies = (OURS,) if options.alone else POLICIES
        site = Site(
            Path(directory),
            seeds[:1] if options.quick else seeds,
            policies,
            options.quick,
            status.update,
            options.jitter,
        )
        done = _measured(site, options.only, options.seeds)
    if options.json:
        sys.stdout.write(to_json(done).decode())
    else:
        Console(width=None if sys.stdout.isatty() else 150).print(pages.shown(done))
    raise SystemExit(0 if all(aim.is_reached for row in done.rows for aim in row.aims) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.arrivals", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", choices=tuple(SEEDS), default="validation", help="rules may be chosen on those for tuning alone"
    )
    parser.add_argument(
        "--only", metavar="ROW,…", help=f"{', '.join(ROWS)}; and with validation seeds: {', '.join(UNSEEN)}"
    )
    parser.add_argument("--alone", action="store_true", help=f"{OURS} without the others, but on synthetic traces")
    parser.add_argument(
        "--quick", action="store_true", help="a quarter of each trace, one seed; aims are for whole ones"
    )
    parser.add_argument(
        "--jitter",
        choices=tuple(JITTERS),
        help="batch times of alike workers (steps-…, steady) scatter up to this percentile; nothing scatters on other "
        "rows, as profiles of the paper's cluster and of the synthetic one have one time for each batch size",
    )
    parser.add_argument("--json", action="store_true", help="print what was found as one JSON document")
    options = parser.parse_args()
    options.jitter = JITTERS.get(options.jitter)
    rows = _rows(options.seeds)
    options.only = tuple(name.strip() for name in (options.only or ",".join(rows)).split(","))
    for name in options.only:
        if name not in rows:
            parser.error(f"no row {name} with {options.seeds} seeds; there are {', '.join(rows)}")
    return options


def _rows(seeds: str) -> dict[str, Row]:
    return ROWS if seeds == "tuning" else ROWS | UNSEEN


def _measured(site: Site, names: tuple[str, ...], seeds: str) -> Benchmark:
    start_s = time.perf_counter()
    rows, has_paper = _rows(seeds), PAPER.is_dir()
    possible = [name for name in names if has_paper or not rows[name].needs_paper]
    return Benchmark(
        made_by=made_by(),
        command=shlex.join(("python", "-m", "benchmarks.arrivals", *sys.argv[1:])),
        machine=f"{machine()}; proteus-serving {version('proteus-serving')}",
        seeds=seeds,
        rows=tuple(_found(site, name, rows[name]) for name in possible),
        skipped=tuple(f"Skipped {name}: {PAPER} isn't there." for name in names if name not in possible),
        seconds=time.perf_counter() - start_s,
    )


def _found(site: Site, name: str, row: Row) -> Found:
    start_s = time.perf_counter()
    found = row.measure(site, name)
    print(f"{name}: {time.perf_counter() - start_s:.0f} s", file=sys.stderr)
    return found


if __name__ == "__main__":
    main()
