"""Options of `proteus task`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.command_line import completion, sections
from proteus_cli.cli.options import common
from proteus_cli.variants.training.ladder import LADDER

# --- add


class Preferred(StrEnum):
    """What answers should have much of, or take little of."""

    ACCURACY = "accuracy"
    LATENCY = "latency"
    ENERGY = "energy"
    COST = "cost"


NewTask = Annotated[str, Argument(metavar="NAME", help="The new family, which clients ask for.")]
Data = Annotated[
    Path,
    Option(
        metavar="NPZ",
        help="Labelled rows: the classes `y`, from 0, and the rows as `x`, or as the one input of the models is to be "
        "named. A fifth of each class is held out.",
    ),
]
Slo = Annotated[str, Option(metavar="DURATION", help="The latency target, such as `50ms`.")]
Policy = Annotated[
    Preferred,
    Option(help="What its plans aim for: accurate answers, or answers that take little time, energy or money."),
]
Models = Annotated[
    str | None,
    Option(
        metavar="KIND,…",
        show_default="all",
        help=f"The kinds of models to train, of {', '.join(f'`{kind}`' for kind in LADDER)}. The numbers are trees of "
        "a forest or of boosting, and hidden units of a network.",
    ),
]
Seed = Annotated[
    int, Option(min=0, max=2**32 - 1, metavar="NUMBER", help="Of the split, and of what is random in training.")
]
Budget = Annotated[
    float,
    Option(
        **common.DURATION,
        help="The longest that training may take. What is trained by then is used.",
        rich_help_panel=sections.LIMITS,
    ),
]
Memory = Annotated[
    int,
    Option(
        **common.SIZE,
        help="The most memory that each process that trains may take.",
        rich_help_panel=sections.LIMITS,
    ),
]
Rows = Annotated[
    int,
    Option(
        min=10,
        max=1_000_000_000,
        metavar="COUNT",
        help="Train on so many rows at most, drawn from each class alike.",
        rich_help_panel=sections.LIMITS,
    ),
]
Device = Annotated[
    str | None,
    Option(
        metavar="DEVICE",
        autocompletion=completion.devices,
        show_default="the first CPU device",
        help="The id of the CPU device to measure on.",
        rich_help_panel=sections.MEASURING,
    ),
]

# --- retrain, show

TaskName = Annotated[str, Argument(metavar="NAME", help="A task: a family with `[family.task]` in the catalog.")]
NewData = Annotated[
    Path | None,
    Option(
        "--data",
        metavar="NPZ",
        show_default="the rows of before",
        help="Other labelled rows than before. Both versions are judged on a part of them that is held out, which "
        "becomes the eval split.",
    ),
]
KeepEval = Annotated[
    bool, Option("--keep-eval", help="Judge both versions on the eval split of the family, and leave it.")
]
MaxLoss = Annotated[
    float,
    Option(
        min=0.0,
        max=1.0,
        metavar="FRACTION",
        help="How much less accurate than the earlier version a new one may be, to take its place.",
    ),
]
KeepCatalog = Annotated[
    bool, Option("--keep-catalog", help="Only write the new versions, and say how to roll them out.")
]
ServerUrl = Annotated[
    str | None,
    Option(
        "--url",
        metavar="URL",
        help="Leave the catalog as it is, and have the server of this workspace roll the new version out.",
        rich_help_panel=sections.ROLLOUT,
    ),
]
