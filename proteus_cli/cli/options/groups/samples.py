"""Options of `proteus samples`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.options.common import DURATION


class SplitKind(StrEnum):
    """What exported rows are for."""

    EVAL = "eval"
    TRAIN = "train"


FamilyName = Annotated[str, Argument(metavar="FAMILY", help="A family that has samples.")]
OnlyFamily = Annotated[str | None, Argument(metavar="FAMILY", help="Only of this family.", show_default="all families")]
Output = Annotated[Path, Option("--output", "-o", metavar="NPZ", help="The file to write.")]
As = Annotated[
    SplitKind,
    Option(
        "--as",
        help="`eval`: rows with labels, as `proteus profile` reads them. `train`: all rows, with `y` of -1 where there "
        "is no label, and the `answer` and `confidence` that each had.",
    ),
]
LabelledOnly = Annotated[bool, Option("--labelled-only", help="Leave out rows without a label.")]
Since = Annotated[
    float | None,
    Option(**DURATION, show_default="all", help="Only requests that were answered within this time before now."),
]
