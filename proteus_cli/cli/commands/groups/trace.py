"""``proteus trace``: make traces, convert them, and show what they ask for."""

from pathlib import Path
from typing import TYPE_CHECKING

from proteus_cli.cli import console
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups import trace as options
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from proteus_cli.domain.trace import Trace
    from proteus_cli.replay.convert import Conversion, ConversionOptions
    from proteus_cli.replay.formats import Format
    from proteus_cli.replay.synthesis import Shape

app = group_of_commands("Make, convert and describe traces of arrivals.")


@app.command(cls=Command)
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
    They need not be sorted. All of them have 50 million arrivals at most.
    """
    from functools import partial

    from proteus_cli.replay.convert import END_US, ConversionOptions, convert, parse_window
    from proteus_cli.replay.trace import csv_pieces

    how = ConversionOptions(
        format=_format(format_name, map_column or []),
        families=family_from,
        window_us=parse_window(window) if window is not None else (0, END_US),
        speedup=speedup,
        scale_to_qps=scale_to,
        keeps_slos=not without_slo,
        seed=seed,
    )
    with console.progress("reading") as advance:
        shares = partial(_family_shares, families, None, workspace_dir)
        conversion = convert(sources, how, shares, on_source=_announce, progress=advance)
    pieces = csv_pieces(conversion.trace, per_second=per_second)
    with console.writing(output) as write:
        for piece in pieces:
            write(piece)
    _summarize(conversion, how, output)


@app.command(cls=Command)
def make(
    shape: options.Shape,
    *,
    rate: options.Rate,
    peak: options.Peak = None,
    duration: options.Duration = common.unparsed("60s"),
    families: options.Families = None,
    zipf: options.Zipf = None,
    gamma_shape: options.GammaShape = None,
    period: options.Period = None,
    ramp: options.Ramp = None,
    burst_start: options.BurstStart = None,
    burst_stop: options.BurstStop = None,
    seed: options.Seed = 0,
    per_second: options.PerSecond = False,
    output: options.Output = console.DASH,
    workspace_dir: common.Workspace = common.WORKSPACE,
) -> None:
    """Make a trace and write it as CSV."""
    import numpy as np

    from proteus_cli.replay.synthesis import make_trace

    given = {
        "peak_qps": peak, "gamma_shape": gamma_shape, "period_s": period, "ramp_s": ramp, "start_s": burst_start,
        "stop_s": burst_stop,
    }  # fmt: skip
    chosen = _shape(shape, {name: value for name, value in given.items() if value is not None})
    shares = _family_shares(families, zipf, workspace_dir)
    rng = np.random.default_rng(seed)
    made = make_trace(shape, chosen, rate_qps=rate, duration_s=duration, shares=shares, rng=rng)
    _save(made, output, per_second=per_second)


@app.command(cls=Command)
def info(trace: common.Trace, *, json: common.Json = False) -> None:
    """Show what a trace asks for: rates, families, burstiness."""
    from proteus_cli.cli.views.trace_table import trace_table
    from proteus_cli.replay.trace import read_trace, summary

    arrivals = read_trace(trace)
    facts = summary(arrivals)
    if json:
        console.show_json(facts)
    else:
        console.show(trace_table(arrivals, facts))


# --- shares


def _family_shares(families: str | None, zipf: float | None, workspace_dir: Path) -> dict[str, float]:
    """Shares by family: as given, else the catalog's weights, or by Zipf's law with ``zipf``. Raises `UsageError`."""
    from proteus_cli.replay.synthesis import parse_shares, zipf_shares
    from proteus_cli.store import Workspace

    if families is not None:
        return parse_shares(families, zipf)
    workspace = Workspace(workspace_dir)
    if not workspace.catalog_path.exists():
        hint = "name them, like `--families digits=0.7,signals=0.3`, or a workspace with `--workspace`"
        raise UsageError(f"No file `{workspace.catalog_path}` to take the families from.", hint=hint)
    catalog = workspace.catalog()
    if zipf is not None:
        return zipf_shares(catalog.names, zipf)
    return {family.name: family.weight for family in catalog.families}


# --- converting


def _format(name: str | None, assignments: list[str]) -> "Format | None":
    from proteus_cli.replay.formats import mapped, named

    if name is not None and assignments:
        raise UsageError("Give one of `--format` and `--map-column`.", hint="a format defines what its columns mean")
    if assignments:
        return mapped(assignments)
    return named(name) if name is not None else None


def _announce(source: str, form: "Format", rule: str) -> None:
    console.say(f"{source}: {form.name} ({form.about}); families from {rule}")


def _summarize(conversion: "Conversion", how: "ConversionOptions", output: Path) -> None:
    from proteus_cli.units import counted, format_rate

    if conversion.began is not None:
        console.say(f"0 s of the trace is {conversion.began}")
    scaled = f", scaled to {format_rate(how.scale_to_qps)}" if how.scale_to_qps is not None else ""
    where = "" if output == console.DASH else f" written to {output}"
    console.say(
        f"{counted(conversion.arrivals, 'arrival')} in {conversion.duration_s:.1f} s, "
        f"busiest 10 s at {format_rate(conversion.peak_qps)}{scaled}{where}"
    )


# --- making


def _shape(name: str, given: dict[str, float]) -> "Shape":
    """The shape of that name. Raises `UsageError` unless it takes all options that are given, and they are enough."""
    from dataclasses import MISSING, fields

    from proteus_cli.replay.synthesis import SHAPES

    flags = options.SHAPE_FLAGS
    if name not in SHAPES:
        raise UsageError(f"No shape `{name}`.", hint=f"choose one of: {', '.join(SHAPES)}")
    takes = {field.name: field.default is MISSING for field in fields(SHAPES[name])}
    for option in given:
        if option not in takes:
            taken = ", ".join(flags[each] for each in takes) or "none"
            raise UsageError(
                f"`{flags[option]}` means nothing for the shape `{name}`.",
                hint=f"of the options for shapes, `{name}` takes {taken}",
            )
    for option, is_needed in takes.items():
        if is_needed and option not in given:
            raise UsageError(f"The shape `{name}` needs `{flags[option]}`.", hint="for example `--peak 900qps`")
    return SHAPES[name](**given)


def _save(trace: "Trace", output: Path, *, per_second: bool) -> None:
    from proteus_cli.replay.trace import csv_pieces
    from proteus_cli.units import counted

    pieces = csv_pieces(trace, per_second=per_second)
    with console.writing(output) as write:
        for piece in pieces:
            write(piece)
    if output != console.DASH:
        console.say(f"{counted(len(trace), 'arrival')} in {trace.duration_s:.1f} s written to {output}")
