"""Options of `proteus trace`."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.options.common import DURATION, RATE

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

# --- make

_shape = partial(Option, rich_help_panel=sections.SHAPES)

Shape = Annotated[
    str,
    Argument(
        metavar="SHAPE",
        autocompletion=completion.trace_shapes,
        help="How the rate changes: constant, poisson, gamma, burst or diurnal.",
    ),
]
Rate = Annotated[float, Option(**RATE, help="The arrivals per second; burst, diurnal: those outside the peak.")]
Peak = Annotated[float | None, _shape(**RATE, help="The highest rate. Only for burst and diurnal.")]
Duration = Annotated[float, Option(**DURATION, help="The length of the trace.")]
Zipf = Annotated[
    float | None, Option(metavar="EXPONENT", help="Give the k-th family a share in proportion to 1/k^ZIPF.")
]
GammaShape = Annotated[
    float | None,
    _shape(
        metavar="SHAPE",
        help="The shape parameter of the Gamma distribution; 1 is Poisson. Only for gamma.",
        show_default="0.05",
    ),
]
Period = Annotated[
    float | None,
    _shape(**DURATION, help="The time from one low to the next. Only for diurnal.", show_default="the duration"),
]
Ramp = Annotated[
    float | None,
    _shape(**DURATION, help="The time to rise to the peak, and to fall from it. Only for burst.", show_default="2s"),
]
BurstStart = Annotated[
    float | None,
    _shape(**DURATION, help="When the peak begins. Only for burst.", show_default="a third of the duration"),
]
BurstStop = Annotated[
    float | None,
    _shape(**DURATION, help="When the peak ends. Only for burst.", show_default="two thirds of the duration"),
]

SHAPE_FLAGS = {
    "peak_qps": "--peak",
    "gamma_shape": "--gamma-shape",
    "period_s": "--period",
    "ramp_s": "--ramp",
    "start_s": "--burst-start",
    "stop_s": "--burst-stop",
}
"""The option behind each field of a shape."""

# --- convert

Sources = Annotated[list[Path], Argument(metavar="TRACE", help="The traces to convert, gzipped or not; `-` is stdin.")]
Format = Annotated[
    str | None,
    Option(
        "--format",
        metavar="NAME",
        autocompletion=completion.trace_formats,
        show_default="told by the first line",
        help="The format of the sources: arrivals, counts, counts-by-line, proteus-artifact, azure-functions-2019, "
        "azure-functions-2021, azure-llm, burstgpt or mooncake.",
    ),
]
MapColumn = Annotated[
    list[str] | None,
    Option(
        metavar="ROLE=COLUMN",
        help="What the columns of another CSV or JSON lines format mean: time=COLUMN, slo=COLUMN, duration=COLUMN "
        "(if the time is that of the end), each in seconds or with a unit (time_ms, time_us, time_ns); count=COLUMN "
        "(queries per second). Columns without names are 1, 2, … Repeatable.",
    ),
]
FamilyFrom = Annotated[
    str | None,
    Option(
        metavar="HOW",
        show_default="as the format defines it",
        help="Where the family of a query comes from. column=COLUMN: the value in a column. hash=COLUMN[+COLUMN…]: "
        "each value belongs to one of --families. weights: drawn from --families. name=FAMILY: this one. "
        "file: the name of the source.",
    ),
]
Window = Annotated[
    str | None,
    Option(metavar="START..STOP", help="Take only this part of the sources: `10m..20m`, `10m..` or `..20m`."),
]
Speedup = Annotated[float, Option(metavar="FACTOR", help="Make the trace this many times as fast.")]
ScaleTo = Annotated[float | None, Option(**RATE, help="Then scale the trace, so that its busiest 10 s have this rate.")]
WithoutSlo = Annotated[
    bool, Option("--without-slo", help="Leave out the SLOs of single queries; then those of their families hold.")
]
