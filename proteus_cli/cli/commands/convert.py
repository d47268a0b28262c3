"""``proteus trace convert``: traces of others, and in other forms, made into ours."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proteus_cli.cli import console
from proteus_cli.cli.options.common import (
    DEFAULT_WORKSPACE,
    RATE,
    FamiliesOption,
    SeedOption,
    TraceOutputOption,
    WorkspaceOption,
    family_shares,
)

if TYPE_CHECKING:
    from proteus_cli.replay.conversion.convert import Conversion, ConversionOptions
    from proteus_cli.replay.conversion.families import FamilyRule
    from proteus_cli.replay.conversion.formats import Format

_FORMATS = (
    "Of the sources, instead of telling it by their first line: arrivals, counts, counts-by-line, proteus-artifact, "
    "azure-functions-2019, azure-functions-2021, azure-llm, burstgpt or mooncake."
)


def convert(
    sources: Annotated[list[Path], typer.Argument(help="Traces, gzipped or not; - is stdin.")],
    *,
    format_name: Annotated[str | None, typer.Option("--format", metavar="NAME", help=_FORMATS)] = None,
    map_column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=COLUMN",
            help="In a CSV or JSON lines of another format: time=COLUMN, time_ms=COLUMN (us, ns), slo_ms=COLUMN, "
            "count=COLUMN (per second), duration=COLUMN (where the time is the end). Columns without names are 1, 2, …",
        ),
    ] = None,
    family_from: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="column=COLUMN: its values. hash=COLUMN[+COLUMN…]: each value goes to one of --families. "
            "weights: each query draws one of --families. name=FAMILY: all are this. file: the name of the source.",
            show_default="as the format has it",
        ),
    ] = None,
    families: FamiliesOption = None,
    window: Annotated[
        str | None, typer.Option(metavar="START..STOP", help="Take this part only: `10m..20m`, `10m..`, `..20m`.")
    ] = None,
    speedup: Annotated[float, typer.Option(metavar="FACTOR", help="Make the trace so many times as fast.")] = 1.0,
    scale_to: Annotated[
        float | None, typer.Option(**RATE, help="Then scale it so that its busiest 10 s have this rate.")
    ] = None,
    without_slo: Annotated[
        bool, typer.Option("--without-slo", help="Leave out latency targets of single requests; the families' hold.")
    ] = False,
    seed: SeedOption = 0,
    per_second: Annotated[
        bool, typer.Option("--per-second", help="Write counts by second and family; much shorter.")
    ] = False,
    output: TraceOutputOption = console.TO_STDOUT,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Convert public traces, and other forms, to a trace that can be replayed.

    Reads the Proteus artifact, Azure Functions 2019 and 2021, Azure LLM inference, BurstGPT, Mooncake, counts per
    second, our own two forms, and any CSV by --map-column. Several sources become one trace. They are sorted by time
    where they aren't, in a temporary file; memory doesn't grow with them.
    """
    from functools import partial
    from tempfile import TemporaryFile

    from proteus_cli.replay.conversion.convert import ConversionOptions, convert
    from proteus_cli.replay.conversion.families import parse_rule
    from proteus_cli.replay.conversion.stream import ALL, parse_window

    options = ConversionOptions(
        format=_format(format_name, map_column or []),
        rule=parse_rule(family_from) if family_from is not None else None,
        window=parse_window(window) if window is not None else ALL,
        speedup=speedup,
        scale_to_qps=scale_to,
        keeps_slos=not without_slo,
        per_second=per_second,
        seed=seed,
    )
    with TemporaryFile() as spool:
        with console.progress("reading") as advance:
            shares = partial(family_shares, families, None, workspace)
            conversion = convert(sources, options, shares, spool, on_source=_announce, progress=advance)
        with _writer(output) as write:
            for piece in conversion.pieces:
                write(piece)
    _sum_up(conversion, options, output)


def _format(name: str | None, assignments: list[str]) -> "Format | None":
    from proteus_cli.errors import UsageError
    from proteus_cli.replay.conversion.formats import mapped, named

    if name is not None and assignments:
        raise UsageError("Give one of `--format` and `--map-column`.", hint="a format says itself what columns mean")
    if assignments:
        return mapped(assignments)
    return named(name) if name is not None else None


def _announce(source: str, form: "Format", rule: "FamilyRule") -> None:
    console.say(f"{source}: {form.name} ({form.about}); families from {rule}")


@contextmanager
def _writer(output: Path) -> Iterator[Callable[[str], object]]:
    from proteus_cli.store import writing_text

    if output == console.TO_STDOUT:
        yield sys.stdout.write
        sys.stdout.flush()
        return
    with writing_text(output) as write:
        yield write


def _sum_up(conversion: "Conversion", options: "ConversionOptions", output: Path) -> None:
    from proteus_cli.units import format_rate

    found = conversion.found
    if conversion.began is not None:
        console.say(f"0 s of the trace is {conversion.began}")
    scaled = f", scaled to {format_rate(options.scale_to_qps)}" if options.scale_to_qps is not None else ""
    where = "" if output == console.TO_STDOUT else f" written to {output}"
    console.say(
        f"{found.arrivals:,} arrivals in {found.duration_s:.1f} s, busiest 10 s at {format_rate(found.peak_qps)}"
        f"{scaled}{where}"
    )
