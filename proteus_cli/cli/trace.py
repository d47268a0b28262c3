"""``proteus trace``: make traces, convert them, and show what they ask for."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from proteus_cli.domain.trace import Trace
    from proteus_cli.replay.convert import Conversion, ConversionOptions
    from proteus_cli.replay.formats import Format
    from proteus_cli.replay.synthesis import Shape
    from proteus_cli.replay.trace import TraceSummary

_shape = partial(Option, rich_help_panel=sections.SHAPES)

SHAPE_FLAGS = {
    "peak_qps": "--peak",
    "gamma_shape": "--gamma-shape",
    "period_s": "--period",
    "ramp_s": "--ramp",
    "start_s": "--burst-start",
    "stop_s": "--burst-stop",
}
"""The option behind each field of a shape."""

Families = Annotated[
    str | None,
    Option(
        metavar="FAMILY[=SHARE],…",
        autocompletion=completion.families,
        help="The families and their shares, such as `digits=0.7,signals=0.3`, or only their names.",
        show_default="those of the catalog, by weight",
    ),
]

Seed = Annotated[int, Option(min=0, metavar="N", help="The seed: the same one makes the same trace.")]

PerSecond = Annotated[
    bool, Option("--per-second", help="Write counts by second and family, which is a much shorter file.")
]

Output = Annotated[
    Path, Option("--output", "-o", metavar="FILE", help="The file to write, gzipped if it ends in .gz; `-` is stdout.")
]

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 50

app = group_of_commands("Make, convert and describe traces of arrivals.")


@app.command(cls=Command)
def convert(
    sources: Annotated[
        list[Path], Argument(metavar="TRACE", help="The traces to convert, gzipped or not; `-` is stdin.")
    ],
    *,
    format_name: Annotated[
        str | None,
        Option(
            "--format",
            metavar="NAME",
            autocompletion=completion.trace_formats,
            show_default="told by the first line",
            help="The format of the sources: arrivals, counts, proteus-artifact, azure-llm or burstgpt.",
        ),
    ] = None,
    map_column: Annotated[
        list[str] | None,
        Option(
            metavar="ROLE=COLUMN",
            help="What the columns of another CSV mean: time=COLUMN and slo=COLUMN, in seconds or with a unit ("
            "time_ms, time_us, time_ns); count=COLUMN (queries per second). Unnamed columns are 1, 2, … Repeatable.",
        ),
    ] = None,
    family_from: Annotated[
        str | None,
        Option(
            metavar="HOW",
            show_default="as the format defines it",
            help="Where the family of a query comes from. column=COLUMN: the value in a column. "
            "weights: drawn from --families. name=FAMILY: this one. "
            "file: the name of the source.",
        ),
    ] = None,
    families: Families = None,
    window: Annotated[
        str | None,
        Option(metavar="START..STOP", help="Take only this part of the sources: `10m..20m`, `10m..` or `..20m`."),
    ] = None,
    speedup: Annotated[float, Option(metavar="FACTOR", help="Make the trace this many times as fast.")] = 1.0,
    scale_to: Annotated[
        float | None, Option(**options.RATE, help="Then scale the trace, so that its busiest 10 s have this rate.")
    ] = None,
    without_slo: Annotated[
        bool, Option("--without-slo", help="Leave out the SLOs of single queries; then those of their families hold.")
    ] = False,
    seed: Seed = 0,
    per_second: PerSecond = False,
    output: Output = console.DASH,
    workspace_dir: options.Workspace = options.WORKSPACE,
) -> None:
    """Convert traces in public formats, and in other forms, to one that can be replayed.

    Reads traces of the Proteus artifact, Azure LLM inference and BurstGPT, counts per second, our own two forms, and
    any CSV with --map-column. Several sources become one trace. They need not be sorted. All of them have 50 million
    arrivals at most.
    """
    from functools import partial

    from proteus_cli.replay.convert import END_US, ConversionOptions, convert, parse_window

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
    _write(conversion.trace, output, per_second=per_second)
    _summarize(conversion, how, output)


@app.command(cls=Command)
def make(
    shape: Annotated[
        str,
        Argument(
            metavar="SHAPE",
            autocompletion=completion.trace_shapes,
            help="How the rate changes: constant, poisson, gamma, burst or diurnal.",
        ),
    ],
    *,
    rate: Annotated[
        float, Option(**options.RATE, help="The arrivals per second; burst, diurnal: those outside the peak.")
    ],
    peak: Annotated[float | None, _shape(**options.RATE, help="The highest rate. Only for burst and diurnal.")] = None,
    duration: Annotated[float, Option(**options.DURATION, help="The length of the trace.")] = options.unparsed("60s"),
    families: Families = None,
    zipf: Annotated[
        float | None, Option(metavar="EXPONENT", help="Give the k-th family a share in proportion to 1/k^ZIPF.")
    ] = None,
    gamma_shape: Annotated[
        float | None,
        _shape(
            metavar="SHAPE",
            help="The shape parameter of the Gamma distribution; 1 is Poisson. Only for gamma.",
            show_default="0.05",
        ),
    ] = None,
    period: Annotated[
        float | None,
        _shape(
            **options.DURATION, help="The time from one low to the next. Only for diurnal.", show_default="the duration"
        ),
    ] = None,
    ramp: Annotated[
        float | None,
        _shape(
            **options.DURATION,
            help="The time to rise to the peak, and to fall from it. Only for burst.",
            show_default="2s",
        ),
    ] = None,
    burst_start: Annotated[
        float | None,
        _shape(
            **options.DURATION, help="When the peak begins. Only for burst.", show_default="a third of the duration"
        ),
    ] = None,
    burst_stop: Annotated[
        float | None,
        _shape(
            **options.DURATION, help="When the peak ends. Only for burst.", show_default="two thirds of the duration"
        ),
    ] = None,
    seed: Seed = 0,
    per_second: PerSecond = False,
    output: Output = console.DASH,
    workspace_dir: options.Workspace = options.WORKSPACE,
) -> None:
    """Make a trace and write it as CSV."""
    import numpy as np

    from proteus_cli.replay.synthesis import make_trace
    from proteus_cli.units import counted

    given = {
        "peak_qps": peak, "gamma_shape": gamma_shape, "period_s": period, "ramp_s": ramp, "start_s": burst_start,
        "stop_s": burst_stop,
    }  # fmt: skip
    chosen = _shape_of(shape, {name: value for name, value in given.items() if value is not None})
    shares = _family_shares(families, zipf, workspace_dir)
    rng = np.random.default_rng(seed)
    made = make_trace(shape, chosen, rate_qps=rate, duration_s=duration, shares=shares, rng=rng)
    _write(made, output, per_second=per_second)
    if output != console.DASH:
        console.say(f"{counted(len(made), 'arrival')} in {made.duration_s:.1f} s written to {output}")


@app.command(cls=Command)
def info(trace: options.Trace, *, json: options.Json = False) -> None:
    """Show what a trace asks for: rates, families, burstiness."""
    from proteus_cli.replay.trace import read_trace, summary

    arrivals = read_trace(trace)
    facts = summary(arrivals)
    if json:
        console.show_json(facts)
    else:
        _show(arrivals, facts)


def _show(trace: "Trace", summary: "TraceSummary") -> None:
    from proteus_cli.reporting.tables import name, number, table, text
    from proteus_cli.units import UNKNOWN, format_duration, format_percent, format_rate

    facts = {
        "arrivals": f"{summary.arrivals:,}",
        "duration": format_duration(summary.duration_s),
        "mean": format_rate(summary.mean_qps),
        "peak, 10 s": format_rate(summary.peak_qps),
        "peak second / mean": f"{summary.peak_to_mean:.2f}",
        "CV of gaps": UNKNOWN if summary.gap_cv is None else f"{summary.gap_cv:.2f}",
        "demand": _sparkline(trace),
    }
    rows = table(name("trace"), text(summary.trace))
    for fact in facts.items():
        rows.add_row(*fact)
    families = table(name("family"), number("arrivals"), number("share"))
    for family, of in summary.families.items():
        families.add_row(family, f"{of.count:,}", format_percent(of.share))
    for each in (rows, "", families):
        console.show(each)


def _sparkline(trace: "Trace") -> str:
    """Demand over time: a bar for each second, or for a longer time in long traces."""
    import numpy as np

    width = min(SPARKLINE_WIDTH, int(trace.duration_s) + 1)
    counts, _ = np.histogram(trace.arrival_s, bins=width, range=(0.0, max(trace.duration_s, 1.0)))
    levels = np.rint(counts / np.max(counts) * (len(BARS) - 1)).astype(int)
    return "".join(BARS[level] for level in levels)


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


def _shape_of(name: str, given: dict[str, float]) -> "Shape":
    """The shape of that name. Raises `UsageError` unless it takes all options that are given, and they are enough."""
    from dataclasses import MISSING, fields

    from proteus_cli.replay.synthesis import SHAPES

    if name not in SHAPES:
        raise UsageError(f"No shape `{name}`.", hint=f"choose one of: {', '.join(SHAPES)}")
    takes = {field.name: field.default is MISSING for field in fields(SHAPES[name])}
    for option in given:
        if option not in takes:
            taken = ", ".join(SHAPE_FLAGS[each] for each in takes) or "none"
            raise UsageError(
                f"`{SHAPE_FLAGS[option]}` means nothing for the shape `{name}`.",
                hint=f"of the options for shapes, `{name}` takes {taken}",
            )
    for option, is_needed in takes.items():
        if is_needed and option not in given:
            raise UsageError(f"The shape `{name}` needs `{SHAPE_FLAGS[option]}`.", hint="for example `--peak 900qps`")
    return SHAPES[name](**given)


def _write(trace: "Trace", output: Path, *, per_second: bool) -> None:
    from proteus_cli.replay.trace import csv_pieces

    pieces = csv_pieces(trace, per_second=per_second)  # checks the trace before the file is opened
    with console.writing(output) as write:
        for piece in pieces:
            write(piece)
