"""Options of `proteus rollout`."""

from typing import Annotated

from typer import Argument, Option

Family = Annotated[str, Argument(metavar="FAMILY", help="The family, as the catalog calls it.")]
Version = Annotated[
    str,
    Argument(
        metavar="VARIANT@NEW",
        help="A variant of the catalog, and the directory of its new version, beside that of the old one.",
    ),
]
Shadow = Annotated[
    str | None,
    Option(
        metavar="SHARE",
        help="Ask the new version, too, about this share of what the old one has answered, where a device is idle, and "
        "compare the answers; nobody sees them.",
    ),
]
Canary = Annotated[
    str, Option(metavar="SHARE,…", help="The share of the queries that the new version answers, step by step.")
]
Guard = Annotated[
    str,
    Option(
        metavar="TERMS",
        help="What must hold of the new version: `accuracy`, `agreement`, `p50`, `p95`, `p99`, `errors`, joined by "
        "`and`. Where it does not, the old version serves again.",
    ),
]
Confidence = Annotated[str, Option(metavar="SHARE", help="How sure the guard must be, over all steps together.")]
Auto = Annotated[bool, Option("--auto", help="Go on once the guard passes; else each step waits for `promote`.")]
MostQueries = Annotated[
    int,
    Option(
        metavar="NUMBER",
        min=1,
        help="With --auto, end a step that did not pass after so many answers of the new version.",
    ),
]
Watch = Annotated[bool, Option("--watch", help="Show it again as it changes, until all roll-outs have ended.")]
RollbackWindow = Annotated[
    str, Option(metavar="DURATION", help="Keep the old version loaded for so long after the last step.")
]
Fully = Annotated[bool, Option("--fully", help="To the end at once, and not to the next step alone.")]
Reason = Annotated[str, Option(metavar="TEXT", help="Why, for the journal.")]
Url = Annotated[str, Option(metavar="URL", help="The server.")]
