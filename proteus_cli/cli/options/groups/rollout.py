"""Options of `proteus rollout`, and of `proteus task retrain`, which starts a roll-out, too."""

from typing import Annotated

from typer import Argument, Option

from proteus_cli.cli.command_line import sections

# --- how a version is rolled out, and the defaults of that

CANARY = "1%,10%,50%"
CONFIDENCE = "0.95"
MOST_QUERIES = 25_000
ROLLBACK_WINDOW = "10min"


Shadow = Annotated[
    str | None,
    Option(
        metavar="SHARE",
        help="Ask the new version, too, about this share of what the old one has answered, where a device is idle, and "
        "compare the answers; nobody sees them.",
        rich_help_panel=sections.ROLLOUT,
    ),
]
Canary = Annotated[
    str,
    Option(
        metavar="SHARE,…",
        help="The share of the queries that the new version answers, step by step.",
        rich_help_panel=sections.ROLLOUT,
    ),
]
Guard = Annotated[
    str | None,
    Option(
        metavar="JSON",
        help='The terms that must hold of the new version, such as `[{"metric": "errors", "value": 0.01}]`. Where one '
        "does not, the old version serves again.",
        show_default="accuracy >= old - 0.005 and p99 <= slo",
        rich_help_panel=sections.ROLLOUT,
    ),
]
Confidence = Annotated[
    str,
    Option(
        metavar="SHARE",
        help="How sure the guard must be, over all steps together.",
        rich_help_panel=sections.ROLLOUT,
    ),
]
Auto = Annotated[
    bool,
    Option(
        "--auto",
        help="Go on once the guard passes; else each step waits for `promote`.",
        rich_help_panel=sections.ROLLOUT,
    ),
]
MostQueries = Annotated[
    int,
    Option(
        metavar="NUMBER",
        min=1,
        help="With --auto, end a step that did not pass after so many answers of the new version.",
        rich_help_panel=sections.ROLLOUT,
    ),
]
RollbackWindow = Annotated[
    str,
    Option(
        metavar="DURATION",
        help="Keep the old version loaded for so long after the last step.",
        rich_help_panel=sections.ROLLOUT,
    ),
]

# --- all that is of `proteus rollout` alone

Family = Annotated[str, Argument(metavar="FAMILY", help="The family, as the catalog calls it.")]
Version = Annotated[
    str,
    Argument(
        metavar="VARIANT@NEW",
        help="A variant of the catalog, and the directory of its new version, beside that of the old one.",
    ),
]
Watch = Annotated[bool, Option("--watch", help="Show it again as it changes, until all roll-outs are over.")]
Fully = Annotated[bool, Option("--fully", help="To the end at once, and not to the next step alone.")]
Reason = Annotated[str, Option(metavar="TEXT", help="Why, for the journal.")]
Url = Annotated[str, Option(metavar="URL", help="The server.")]
