"""What cascades of the sample zoo are worth on one core, as `proteus profile` measures them; 3 minutes.

A table with thresholds that no label chose, what the profile has, and what is left of it on rows that had no part in
finding it; then plans with and without cascades, simulated on four such cores, and such plans under more demand than
they carry. A line for each aim; exits with 1 where one is missed. Rates are those of the profile: no server runs. With
`--live`, servers do, with one core each: 16 minutes.
With `--rates profiles/cpu0.json`, an example that lies in the repository, the same figures come out on any machine.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.adaptation.lab import laboratory, profiled_lab
from benchmarks.cascades import live, simulated, tables_of, three_stages, under_pressure
from benchmarks.cascades.by_labels import cascades_by_labels
from benchmarks.cascades.picture import write_picture
from benchmarks.cascades.zoo import Find, measured, profiled
from benchmarks.machine import machine
from benchmarks.tables import Aim, aim_line, rich_table
from proteus_cli.domain.profile import Profile
from proteus_cli.profiling.cascades import cascades_of
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
    parser.add_argument("--live", action="store_true", help="serve, instead of all else; needs two cores")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="with --live, draw it: a .png or .svg file")
    options = parser.parse_args()
    draws = tables_of.DRAWS // 4 if options.quick else tables_of.DRAWS
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(machine())
    if options.live:
        return _live(console, options.workspace, options.picture, quick=options.quick)
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
    third_draws = three_stages.DRAWS // 4 if options.quick else three_stages.DRAWS
    third = {of.family.name: three_stages.gains(of, third_draws) for of in families}
    console.print(rich_table(three_stages.table(third)))
    aims = [aim for (family, by), each in found.items() if by == QUANTILES for aim in tables_of.aims(family, each)]
    for of in families:
        runs = simulated.simulated(of)
        console.print(rich_table(simulated.table(of, runs)))
        aims += simulated.aims(of, runs)
        rows = under_pressure.pressed(of, under_pressure.SEEDS[:1] if options.quick else under_pressure.SEEDS)
        console.print(rich_table(under_pressure.table(of, rows)))
        aims += under_pressure.aims(of, rows)
    return _judged(console, aims)


def _live(console: Console, workspace: Path | None, picture: Path | None, *, quick: bool) -> int:
    with tempfile.TemporaryDirectory() as directory:
        lab = laboratory(Path(directory) / "ws", live.BUDGET) if workspace is None else profiled_lab(workspace)
        families = list(live.served_live(lab, live.QUICK_S if quick else live.LASTS_S))
    aims: list[Aim] = []
    for of in families:
        console.print(rich_table(live.table(of)))
        aims += live.aims(of)
    if picture is not None:
        write_picture(picture, families)
    return _judged(console, aims)


def _judged(console: Console, aims: Sequence[Aim]) -> int:
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
