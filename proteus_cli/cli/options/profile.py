"""Options of `proteus profile`."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.command_line.names import environment
from proteus_cli.cli.options.common import DURATION

MEASURING = {
    "--device",
    "--budget",
    "--max-batch",
    "--max-slots",
    "--accept-noise",
    "--as-type",
    "--dry-run",
    "--cluster",
}
IMPORTING = {"--slo"}

_measuring = partial(Option, rich_help_panel=sections.MEASURING)
_exchange = partial(Option, rich_help_panel=sections.EXCHANGE)

Device = Annotated[
    str,
    Option(
        metavar="DEVICE,…",
        autocompletion=completion.devices,
        help="Ids of devices, separated by commas, or `all`. Of those of one type, the first is measured for all.",
    ),
]
Budget = Annotated[
    float | None,
    Option(
        **DURATION,
        envvar=environment("budget"),
        show_default="until stable",
        help="The time for all devices together, such as `60s`; what plans use most comes first. Hosts of a cluster "
        "measure at the same time.",
    ),
]
MaxBatch = Annotated[int, _measuring(min=1, metavar="N", help="The largest batch size to measure.")]
MaxSlots = Annotated[
    int,
    _measuring(
        min=1, max=4, metavar="N", help="The most batches to run on a GPU at once. Fewer take less of its memory."
    ),
]
AcceptNoise = Annotated[
    bool,
    _measuring(
        "--accept-noise",
        help="Take cells as they are measured, though other programs use the device or the runs scatter: none is "
        "repeated or marked. Marks of earlier runs stay.",
    ),
]
DryRun = Annotated[bool, Option("--dry-run", help="Only list what would be measured, with an estimate of the time.")]
AsType = Annotated[
    str | None,
    _measuring(
        metavar="NAME",
        help="The device type to store profiles under, so that machines of one make share them. It stays until another "
        "one is given.",
    ),
]
FromCsv = Annotated[
    list[Path] | None,
    _exchange(
        metavar="CSV",
        help="Import profiles by device type instead of measuring; needs no models. `-` is stdin. Several, as from "
        "machines of one make, are merged: the slower of two cells counts.",
    ),
]
Slo = Annotated[
    str | None,
    _exchange(
        metavar="DURATION",
        help="With --from-csv, if there is no catalog: the SLO of all families, `300ms`, or of each, "
        "`bert=300ms,yolo=100ms`.",
    ),
]
Force = Annotated[
    bool,
    Option(
        "--force", help="Measure again what is current already. With --from-csv: overwrite profiles that were measured."
    ),
]
ToCsv = Annotated[
    Path | None, _exchange(metavar="CSV", help="Export the profiles of the workspace instead. `-` is stdout.")
]
