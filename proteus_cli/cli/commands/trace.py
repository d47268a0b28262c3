"""`proteus trace`: make traces, convert them, and look into them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proteus_cli.cli import console
from proteus_cli.cli.commands.convert import convert
from proteus_cli.cli.options.common import (
    DEFAULT_WORKSPACE,
    DURATION,
    RATE,
    FamiliesOption,
    JsonOption,
    SeedOption,
    TraceOutputOption,
    WorkspaceOption,
    family_shares,
)
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from proteus_cli.domain.trace import Trace
    from proteus_cli.replay.synthesis import Shape
    from proteus_cli.replay.trace import TraceSummary

_DEFAULT_DURATION: Any = "60s"  # the option's parser reads it
_BARS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 50
_FLAGS = {
    "peak_qps": "--peak",
    "gamma_shape": "--gamma-shape",
    "period_s": "--period",
    "ramp_s": "--ramp",
    "start_s": "--burst-start",
    "stop_s": "--burst-stop",
}

app = typer.Typer(help="Make or convert traces of arrivals, and look into them.", no_args_is_help=True)
app.command()(convert)


@app.command()
def make(
    shape: Annotated[str, typer.Argument(help="constant, poisson, gamma, burst or diurnal.")],
    *,
    rate: Annotated[float, typer.Option(**RATE, help="Arrivals per second; outside the peak, where there is one.")],
    peak: Annotated[float | None, typer.Option(**RATE, help="Highest rate (burst, diurnal).")] = None,
    duration: Annotated[float, typer.Option(**DURATION, help="Length of the trace.")] = _DEFAULT_DURATION,
    families: FamiliesOption = None,
    zipf: Annotated[float | None, typer.Option(help="Share the k-th family by 1/k^ZIPF.")] = None,
    gamma_shape: Annotated[
        float | None, typer.Option(help="Shape of the Gamma distribution, 1 is Poisson. Default: 0.05 (gamma).")
    ] = None,
    period: Annotated[
        float | None, typer.Option(**DURATION, help="Time from low to low. Default: the duration (diurnal).")
    ] = None,
    ramp: Annotated[
        float | None, typer.Option(**DURATION, help="Climb before and fall after the peak. Default: 2s (burst).")
    ] = None,
    burst_start: Annotated[
        float | None, typer.Option(**DURATION, help="Peak from here. Default: a third in (burst).")
    ] = None,
    burst_stop: Annotated[
        float | None, typer.Option(**DURATION, help="Peak until here. Default: two thirds in (burst).")
    ] = None,
    seed: SeedOption = 0,
    per_second: Annotated[
        bool, typer.Option("--per-second", help="Write counts by second and family; much shorter.")
    ] = False,
    output: TraceOutputOption = console.TO_STDOUT,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Make a trace and write it as CSV."""
    import numpy as np

    from proteus_cli.replay.synthesis import make_trace

    options = {
        "peak_qps": peak, "gamma_shape": gamma_shape, "period_s": period, "ramp_s": ramp,
        "start_s": burst_start, "stop_s": burst_stop,
    }  # fmt: skip
    chosen = _shape(shape, {name: value for name, value in options.items() if value is not None})
    shares = family_shares(families, zipf, workspace)
    rng = np.random.default_rng(seed)
    trace = make_trace(shape, chosen, rate_qps=rate, duration_s=duration, shares=shares, rng=rng)
    _save(trace, output, per_second=per_second)


@app.command()
def info(
    trace: Annotated[Path, typer.Argument(help="Trace CSV, gzipped or not.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what a trace asks for: rates, families, burstiness."""
    from proteus_cli.replay.trace import read_trace, summary

    arrivals = read_trace(trace)
    facts = summary(arrivals)
    if as_json:
        console.show_json(facts)
    else:
        console.show(_table(facts, _sparkline(arrivals)))


def _shape(name: str, given: dict[str, float]) -> "Shape":
    """The shape of that name. Raises `UsageError` unless the options given are those that it takes and needs."""
    from dataclasses import MISSING, fields

    from proteus_cli.replay.synthesis import SHAPES

    if name not in SHAPES:
        raise UsageError(f"No shape `{name}`.", hint=f"choose one of: {', '.join(SHAPES)}")
    takes = {field.name: field.default is MISSING for field in fields(SHAPES[name])}
    flags = ", ".join(_FLAGS[option] for option in takes)
    for option in given:
        if option not in takes:
            hint = f"of the options for shapes, `{name}` takes " + (flags or "none")
            raise UsageError(f"`{_FLAGS[option]}` means nothing for the shape `{name}`.", hint=hint)
    for option, is_needed in takes.items():
        if is_needed and option not in given:
            raise UsageError(f"The shape `{name}` needs `{_FLAGS[option]}`.", hint="for example `--peak 900qps`")
    return SHAPES[name](**given)


def _save(trace: "Trace", output: Path, *, per_second: bool) -> None:
    from proteus_cli.replay.trace import to_csv, write_trace

    if output == console.TO_STDOUT:
        typer.echo(to_csv(trace, per_second=per_second), nl=False)
        return
    write_trace(output, trace, per_second=per_second)
    console.say(f"{len(trace):,} arrivals in {trace.duration_s:.1f} s written to {output}")


def _table(facts: "TraceSummary", sparkline: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    from proteus_cli.units import format_duration, format_percent, format_rate

    rows = {
        "trace": facts.trace,
        "arrivals": f"{facts.arrivals:,}",
        "duration": format_duration(facts.duration_s),
        "mean": format_rate(facts.mean_qps),
        "peak, 10 s": format_rate(facts.peak_qps),
        "peak second / mean": f"{facts.peak_to_mean:.2f}",
        "CV of gaps": "–" if facts.gap_cv is None else f"{facts.gap_cv:.2f}",
        "demand": sparkline,
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, Text(value))
    for name, family in facts.families.items():
        table.add_row(Text(f"  {name}"), f"{family.count:,} ({format_percent(family.share)})")
    return table


def _sparkline(trace: "Trace") -> str:
    """Demand over time, one bar per second, or fewer in a long trace."""
    import numpy as np

    width = min(_SPARKLINE_WIDTH, int(trace.duration_s) + 1)
    counts, _ = np.histogram(trace.arrival_s, bins=width, range=(0.0, max(trace.duration_s, 1.0)))
    levels = np.rint(counts / np.max(counts) * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[level] for level in levels)
