"""Options of `proteus catalog`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.command_line import completion

# --- add

FamilyName = Annotated[str, Argument(metavar="FAMILY", help="The family: new, or one of the catalog.")]
Models = Annotated[
    list[Path], Argument(metavar="MODEL", help="ONNX files; each becomes a variant with the file's name.")
]
Slo = Annotated[str | None, Option(metavar="DURATION", help="The latency target of a new family, such as `200ms`.")]
Eval = Annotated[
    Path | None,
    Option(
        metavar="NPZ|FOLDER",
        help="Labelled rows, or images as FOLDER/CLASS/*.jpg or *.png, for a new family: accuracies are measured on "
        "them, here and by `profile`.",
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

# --- diff

Url = Annotated[str, Option(metavar="URL", help="The server to compare with.")]

# --- split

WholeModel = Annotated[
    Path, Argument(metavar="MODEL", help="An ONNX file with the outputs of all exits, in their order.")
]
At = Annotated[
    str,
    Option(
        metavar="TENSOR,…",
        help="The tensors within the model to cut it at, one less than exits; `a+b` where a stage takes two.",
    ),
]
StopWhen = Annotated[
    str | None,
    Option(
        metavar="JSON",
        help='Make one variant, which stops queries under this condition, such as `{"metric": "exit", "op": ">=", '
        '"value": 2}`; else three are made, for which 70, 40 and 10 % of the eval split stop at the first exit.',
    ),
]
SplitEval = Annotated[
    Path | None,
    Option("--eval", metavar="NPZ", help="Labelled rows, for a new family: exits are judged on them."),
]

# --- derive

VariantName = Annotated[str, Argument(metavar="VARIANT", help="The variant to derive from: its name, or FAMILY/NAME.")]
Int8 = Annotated[
    bool, Option("--int8", help="In INT8: statically quantised where most layers are convolutions, else dynamically.")
]
Fp16 = Annotated[bool, Option("--fp16", help="In FP16, which pays on GPUs; CPUs are mostly slower with it.")]
Sizes = Annotated[
    str | None,
    Option(
        metavar="SIZE,…",
        help="With square images of these sizes, such as `160,192`: each is resized inside of the model.",
    ),
]
CalibrationRows = Annotated[
    Path | None,
    Option(
        "--calibration",
        metavar="NPZ",
        help="Rows without labels, none of them in the eval split: to quantise statically, and to estimate accuracies.",
    ),
]
Device = Annotated[
    str,
    Option(
        metavar="DEVICE,…",
        autocompletion=completion.devices,
        help="Ids of devices to measure on, separated by commas; `all`: one CPU device of each type.",
    ),
]
KeepAll = Annotated[
    bool, Option("--keep-all", help="Also keep what is not worth it here: for devices that are elsewhere.")
]
DryRun = Annotated[bool, Option("--dry-run", help="Only say what would be made.")]
