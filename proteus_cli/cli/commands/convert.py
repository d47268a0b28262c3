"""``proteus trace convert``: traces in public formats, and in other forms, converted to ours."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from proteus_cli.cli import console
from proteus_cli.cli.options import common
from proteus_cli.cli.options import trace as options
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from proteus_cli.replay.conversion.convert import Conversion, ConversionOptions
    from proteus_cli.replay.conversion.families import FamilyRule
    from proteus_cli.replay.conversion.formats import Format


def convert(
    sources: options.Sources,
    *,
    format_name: options.Format = None,
    map_column: options.MapColumn = None,
    family_from: options.FamilyFrom = None,
    families: options.Families = None,
    window: options.Window = None,
    speedup: options.Speedup = 1.0,
    scale_to: options.ScaleTo = None,
    without_slo: options.WithoutSlo = False,
    seed: options.Seed = 0,
    per_second: options.PerSecond = False,
    output: options.Output = console.DASH,
    workspace_dir: common.Workspace = common.WORKSPACE,
) -> None:
    """Convert traces in public formats, and in other forms, to one that can be replayed.

    Reads traces of the Proteus artifact, Azure Functions 2019 and 2021, Azure LLM inference, BurstGPT and Mooncake,
    counts per second, our own two forms, and any CSV or JSON lines with --map-column. Several sources become one trace.
    They are sorted by time, if they are not, in a temporary file, so that traces of any length need little memory.
    """
    from functools import partial
    from tempfile import TemporaryFile

    from proteus_cli.cli.workflows.shares import family_shares
    from proteus_cli.replay.conversion.convert import ConversionOptions, convert
    from proteus_cli.replay.conversion.families import parse_rule
    from proteus_cli.replay.conversion.stream import ALL, parse_window

    how = ConversionOptions(
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
            shares = partial(family_shares, families, None, workspace_dir)
            conversion = convert(sources, how, shares, spool, on_source=_announce, progress=advance)
        with _writer(output) as write:
            for piece in conversion.pieces:
                write(piece)
    _sum_up(conversion, how, output)


def _format(name: str | None, assignments: list[str]) -> "Format | None":
    from proteus_cli.replay.conversion.formats import mapped, named

    if name is not None and assignments:
        raise UsageError("Give one of `--format` and `--map-column`.", hint="a format defines what its columns mean")
    if assignments:
        return mapped(assignments)
    return named(name) if name is not None else None


def _announce(source: str, form: "Format", rule: "FamilyRule") -> None:
    console.say(f"{source}: {form.name} ({form.about}); families from {rule}")


@contextmanager
def _writer(output: Path) -> Iterator[Callable[[str], object]]:
    from proteus_cli.store import writing_text

    if output == console.DASH:
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
    where = "" if output == console.DASH else f" written to {output}"
    console.say(
        f"{found.arrivals:,} arrivals in {found.duration_s:.1f} s, busiest 10 s at {format_rate(found.peak_qps)}"
        f"{scaled}{where}"
    )
