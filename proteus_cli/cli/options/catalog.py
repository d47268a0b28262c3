"""Options of `proteus catalog`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

# --- add

FamilyName = Annotated[str, Argument(metavar="FAMILY", help="The family: new, or one of the catalog.")]
Models = Annotated[
    list[Path], Argument(metavar="MODEL", help="ONNX files; each becomes a variant with the file's name.")
]
Slo = Annotated[str | None, Option(metavar="DURATION", help="The latency target of a new family, such as `200ms`.")]
Eval = Annotated[
    Path | None,
    Option(
        metavar="NPZ", help="Labelled rows, for a new family: accuracies are measured on them, here and by `profile`."
    ),
]
Accuracy = Annotated[
    str | None,
    Option(
        metavar="VALUE|VARIANT=VALUE,…", help="Accuracies that are known, such as `0.91`, or `small=0.9,large=95.2%`."
    ),
]
Calibration = Annotated[
    Path | None,
    Option(
        metavar="NPZ",
        help="Rows without labels: without an eval split, accuracies are estimated by the part of them on which a "
        "variant agrees with the best of its family.",
    ),
]
