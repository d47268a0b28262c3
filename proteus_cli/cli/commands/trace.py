"""``proteus trace``: make traces, convert them, and show what they ask for."""

from typing import TYPE_CHECKING

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command import Command, Group
from proteus_cli.cli.commands.convert import convert
from proteus_cli.cli.options import common
from proteus_cli.cli.options import trace as options
from proteus_cli.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from proteus_cli.domain.trace import Trace
    from proteus_cli.replay.synthesis import Shape

app = typer.Typer(cls=Group, help="Make, convert and describe traces of arrivals.", no_args_is_help=True)
app.command(cls=Command)(convert)


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

    from proteus_cli.cli.workflows.shares import family_shares
    from proteus_cli.replay.synthesis import make_trace

    given = {
        "peak_qps": peak, "gamma_shape": gamma_shape, "period_s": period, "ramp_s": ramp, "start_s": burst_start,
        "stop_s": burst_stop,
    }  # fmt: skip
    chosen = _shape(shape, {name: value for name, value in given.items() if value is not None})
    shares = family_shares(families, zipf, workspace_dir)
    rng = np.random.default_rng(seed)
    made = make_trace(shape, chosen, rate_qps=rate, duration_s=duration, shares=shares, rng=rng)
    _save(made, output, per_second=per_second)


@app.command()
def info(trace: options.Trace, *, json: common.Json = False) -> None:
    """Show what a trace asks for: rates, families, burstiness."""
    from proteus_cli.cli.views.trace_table import trace_table
    from proteus_cli.replay.trace import read_trace, summary

    arrivals = read_trace(trace)
    facts = summary(arrivals)
    if json:
        console.show_json(facts)
    else:
        console.show(trace_table(arrivals, facts))


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


def _save(trace: "Trace", output: "Path", *, per_second: bool) -> None:
    from proteus_cli.replay.trace import to_csv, write_trace

    if output == console.DASH:
        typer.echo(to_csv(trace, per_second=per_second), nl=False)
        return
    write_trace(output, trace, per_second=per_second)
    console.say(f"{len(trace):,} arrivals in {trace.duration_s:.1f} s written to {output}")
