"""The frame of all benchmarks: parts to choose from, tables, aims, and the result as one JSON document.

A benchmark is a mapping of part names to functions. Each function measures and returns a `Found`. `benchmark` runs the
chosen parts, prints their tables and a line per aim, and gives the exit code: 1 where an aim is missed.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from proteus_cli.domain.base import MadeBy, Value
from proteus_cli.store import made_by, write_json

ROOT = Path(__file__).parents[1]
UNKNOWN = "–"


class Table(Value, frozen=True):
    """Cells as text, a row for each run or trace; ``note`` says how to read them. The first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class Aim(Value, frozen=True):
    """One figure with its limit; ``possible`` is the best that the machine allows, where that is known."""

    what: str
    measured: float
    limit: float
    unit: str
    is_most: bool
    possible: float | None = None

    @property
    def is_reached(self) -> bool:
        return self.measured <= self.limit if self.is_most else self.measured >= self.limit


class Found(Value, frozen=True):
    """The outcome of a part."""

    tables: tuple[Table, ...] = ()
    aims: tuple[Aim, ...] = ()
    remarks: tuple[str, ...] = ()


class Result(Value, frozen=True):
    """The outcome of a benchmark, with the machine and the command that gave it (``--json``)."""

    made_by: MadeBy
    command: str
    machine: str
    seconds: float
    parts: dict[str, Found]


@dataclass(frozen=True, eq=False)
class Run:
    """The input of a part: a directory of its own benchmark, the number of rounds, and whether it is a short trial."""

    directory: Path
    rounds: int
    is_quick: bool
    options: argparse.Namespace

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)


Part = Callable[[Run], Found]


def benchmark(
    doc: str | None,
    parts: Mapping[str, Part],
    *,
    usual: Sequence[str] | None = None,
    rounds: int = 3,
    parser: argparse.ArgumentParser | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run the parts that the command line names, or the ``usual`` ones; ``parser`` may have options of their own."""
    parser = parser or argparse.ArgumentParser()
    parser.description, parser.formatter_class = doc, argparse.RawDescriptionHelpFormatter
    usual = usual or tuple(parts)
    parser.add_argument(
        "--parts", metavar="A,B", type=lambda text: text.split(","), default=usual, help=", ".join(parts)
    )
    parser.add_argument("--rounds", type=int, default=None, help=f"{rounds}; 1 with --quick")
    parser.add_argument(
        "--quick", action="store_true", help="short runs that show that it works; aims are for whole ones"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    options = parser.parse_args(arguments)
    for name in options.parts:
        if name not in parts:
            parser.error(f"no part `{name}`; there are {', '.join(parts)}")
    begun_s, found = time.monotonic(), dict[str, Found]()
    with TemporaryDirectory() as directory:
        run = Run(Path(directory), options.rounds or (1 if options.quick else rounds), options.quick, options)
        for name in options.parts:
            found[name] = parts[name](run)
            show(found[name])
    command = " ".join(("python -m", *sys.orig_argv[2:]))
    result = Result(made_by(), command, machine(), time.monotonic() - begun_s, found)
    if options.json:
        write_json(options.json, result)
    aims = [aim for each in found.values() for aim in each.aims]
    for aim in aims:
        console().print(Text(aim_line(aim), style="green" if aim.is_reached else "red"))
    console().print(f"{result.seconds:.0f} s; {result.machine}; {result.made_by.time[:10]}", highlight=False)
    return 0 if all(aim.is_reached for aim in aims) else 1


def console() -> Console:
    """The terminal, or wide lines for a file."""
    return Console(width=None if sys.stdout.isatty() else 150)


def show(found: Found) -> None:
    """Print tables and remarks."""
    for table in found.tables:
        console().print(rich_table(table))
    for remark in found.remarks:
        console().print(remark, markup=False, highlight=False)


def aim_line(aim: Aim) -> str:
    """In one line, with a mark."""
    sign, mark = ("≤" if aim.is_most else "≥"), ("✓" if aim.is_reached else "✗")
    possible = "" if aim.possible is None else f"; possible: {aim.possible:.2f}"
    return f"{mark} {aim.what}: {aim.measured:.2f} {aim.unit} (to reach: {sign} {aim.limit:g}{possible})"


def rich_table(table: Table) -> RichTable:
    """For the terminal; a cell that ends in a star is bold."""
    drawn = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, caption=table.note or None)
    drawn.caption_justify = "left"
    for place, column in enumerate(table.columns):
        drawn.add_column(column, justify="right" if place else "left")
    for row in table.rows:
        drawn.add_row(*(Text(cell, style="bold" if cell.endswith("*") else "") for cell in row))
    return drawn


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """The median with the lowest and the highest: ``1.20 (1.10–1.40)``."""
    if not values:
        return UNKNOWN
    middle, low, high = (f"{value:{form}}" for value in (statistics.median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def percent(fraction: float | None, digits: int = 2) -> str:
    """``0.0123`` → ``1.23 %``."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.{digits}f} %"


def machine() -> str:
    """Processor, cores and Python of this machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"


def proteus(*arguments: str) -> None:
    """Run a command, quietly. Raises `subprocess.CalledProcessError` where it fails."""
    subprocess.run((sys.executable, "-m", "proteus_cli", "-q", *arguments), check=True, stdout=subprocess.DEVNULL)
