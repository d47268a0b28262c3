"""What cascades of the sample zoo are worth on one core, as `proteus profile` measures them; 3 minutes.

A table with thresholds that no label chose, what the profile has, and what is left of it on rows that had no part in
finding it; then plans with and without cascades, simulated on four such cores, and such plans under more demand than
they carry. A line for each aim; exits with 1 where
one is missed. Rates are those of the profile: no server runs.
With `--rates profiles/cpu0.json`, an example that lies in the repository, the same figures come out on any machine.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.cascades import simulated, tables_of, under_pressure
from benchmarks.cascades.by_labels import cascades_by_labels
from benchmarks.cascades.zoo import Find, measured, profiled
from benchmarks.machine import machine
from benchmarks.tables import aim_line, rich_table
from proteus_cli.domain.profile import Profile
from proteus_cli.profiling.cascades.pairs import cascades_of
from proteus_cli.store import read_json

QUANTILES = "quantiles"
CHOOSING: dict[str, Find] = {QUANTILES: cascades_of, "by labels": cascades_by_labels}


def main() -> int:
    """Measure, print tables and aims; 1 where an aim is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cascades", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a budget of 60 s for profiling, and a quarter of the draws"
    )
    parser.add_argument("--workspace", type=Path, metavar="DIR", help="use this one, profiled as it is")
    parser.add_argument(
        "--rates", type=Path, metavar="PROFILE", help="of this profile, measured where nothing disturbed it"
    )
    options = parser.parse_args()
    draws = tables_of.DRAWS // 4 if options.quick else tables_of.DRAWS
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(machine())
    rates = read_json(options.rates, Profile, hint="name one like profiles/cpu0.json") if options.rates else None
    with tempfile.TemporaryDirectory() as directory:
        families = measured(options.workspace or profiled(Path(directory) / "ws", _arguments(options)), rates)
    console.print(rich_table(tables_of.studied(families)))
    for of in families:
        console.print(rich_table(tables_of.profiled_table(of)))
    found = {
        (of.family.name, by): tables_of.unseen(of, draws, find) for of in families for by, find in CHOOSING.items()
    }
    console.print(rich_table(tables_of.unseen_table(found)))
    aims = [aim for (family, by), each in found.items() if by == QUANTILES for aim in tables_of.aims(family, each)]
    for of in families:
        runs = simulated.simulated(of)
        console.print(rich_table(simulated.table(of, runs)))
        aims += simulated.aims(of, runs)
        rows = under_pressure.pressed(of, under_pressure.SEEDS[:1] if options.quick else under_pressure.SEEDS)
        console.print(rich_table(under_pressure.table(of, rows)))
        aims += under_pressure.aims(of, rows)
    for aim in aims:
        console.print(aim_line(aim))
    return 0 if aims and all(aim.is_reached for aim in aims) else 1


def _arguments(options: argparse.Namespace) -> tuple[str, ...]:
    """Of `proteus profile`: without need of rates here, only the answers take time."""
    if options.rates:
        return ("--max-batch", "1", "--accept-noise")
    return ("--budget", "60s") if options.quick else ()


if __name__ == "__main__":
    raise SystemExit(main())
