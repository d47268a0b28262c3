"""The paper's experiments on its own data, synthetic traces, and the gap to the oracle.

Prints a table for each; the whole takes about ten minutes on one core. What needs `../shared/data/proteus-asplos24`
beside the repository is left out without it, and the rest runs on a synthetic cluster.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.machine import machine
from benchmarks.paper import fig4, fig5, fig6, fig7, fig8, generality, oracle, pages
from benchmarks.paper.lab import FULL, QUICK, Lab
from benchmarks.paper.results import Benchmark, Section
from benchmarks.planner_instances import PAPER
from proteus_cli.cli.console import loudness
from proteus_cli.store import made_by, to_json, write_bytes, write_text

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True, slots=True)
class Experiment:
    """One section. ``needs_paper``: it makes no sense without the paper's data."""

    measure: Callable[[Lab], Section]
    needs_paper: bool = False


EXPERIMENTS = {
    "fig4": Experiment(fig4.measure, needs_paper=True),
    "fig7": Experiment(fig7.measure, needs_paper=True),
    "fig6": Experiment(fig6.measure),
    "fig8": Experiment(fig8.measure, needs_paper=True),
    "fig5": Experiment(fig5.measure),
    "generality": Experiment(generality.measure),
    "oracle": Experiment(oracle.measure),
}


def main() -> None:
    """Run the experiments and deliver what they found; exit with 1 where an aim is missed."""
    options = _options()
    loudness.quiet = True
    with TemporaryDirectory() as directory, Console(stderr=True).status("") as status:
        lab = Lab(Path(directory), QUICK if options.quick else FULL, status.update)
        done = _measured(lab, options.only)
        pictures = {fig5.PICTURE: fig5.picture(lab)} if "fig5" in options.only else {}
    _deliver(done, pictures, options)
    raise SystemExit(0 if all(aim.is_reached for section in done.sections for aim in section.aims) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", type=_names, default=tuple(EXPERIMENTS), metavar="NAME,…", help=", ".join(EXPERIMENTS)
    )
    parser.add_argument("--quick", action="store_true", help="parts of traces, and fewer of them: about a minute")
    parser.add_argument("--json", action="store_true", help="print what was found as one JSON document")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write paper.json, the page, its tables and picture")
    parser.add_argument("--docs", action="store_true", help="write docs/paper.md")
    options = parser.parse_args()
    if options.docs and (options.quick or options.only != tuple(EXPERIMENTS) or not PAPER.is_dir()):
        parser.error("--docs takes a full run with the paper's data: without --quick and --only")
    return options


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no experiment {unknown[0]}; there are {', '.join(EXPERIMENTS)}")
    return names


def _measured(lab: Lab, names: tuple[str, ...]) -> Benchmark:
    start_s = time.perf_counter()
    possible = [name for name in names if lab.has_paper or not EXPERIMENTS[name].needs_paper]
    sections = tuple(_section(lab, name) for name in possible)
    return Benchmark(
        made_by=made_by(),
        command=_command(names, is_quick=lab.size is QUICK),
        machine=machine(),
        versions={name: version(name) for name in ("proteus-serving", "highspy", "cvxpy", "numpy")},
        cluster=lab.cluster().name,
        seconds=time.perf_counter() - start_s,
        sections=sections,
        runs=tuple(figures for _, figures in lab.done.values()),
        skipped=tuple(
            f"Skipped {name}: its data, ../shared/data/proteus-asplos24, isn't there."
            for name in names
            if name not in possible
        ),
    )


def _section(lab: Lab, name: str) -> Section:
    start_s = time.perf_counter()
    section = EXPERIMENTS[name].measure(lab)
    print(f"{name}: {time.perf_counter() - start_s:.0f} s", file=sys.stderr)
    return section


def _command(names: tuple[str, ...], *, is_quick: bool) -> str:
    """What measures this again, wherever it is to be written."""
    only = () if names == tuple(EXPERIMENTS) else ("--only", ",".join(names))
    return " ".join(("python -m benchmarks.paper", *(["--quick"] if is_quick else []), *only))


def _deliver(done: Benchmark, pictures: Mapping[str, bytes], options: argparse.Namespace) -> None:
    if options.json:
        sys.stdout.write(to_json(done).decode())
    else:
        Console(width=None if sys.stdout.isatty() else 150).print(pages.shown(done))
    for directory in ([DOCS] if options.docs else []) + ([options.out] if options.out else []):
        path = directory / "paper.md"
        write_text(path, pages.renewed(path.read_text(encoding="utf-8") if path.is_file() else "", done))
        for name, content in pictures.items():
            write_bytes(directory / name, content)
    if options.out:
        write_bytes(options.out / "paper.json", to_json(done))
        write_text(options.out / "tables.md", pages.tables(done))


if __name__ == "__main__":
    main()
