"""``proteus samples``: requests that ``proteus serve --set samples=…`` has captured."""

import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from proteus_cli.cli import console, options
from proteus_cli.cli.command_line.command import Command, group_of_commands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proteus_cli.store.samples.summary import SampleSummary


class SplitKind(StrEnum):
    """The use of exported rows."""

    EVAL = "eval"
    TRAIN = "train"


app = group_of_commands("List, export or remove requests that a server has captured.")


@app.command("list", cls=Command)
def list_samples(
    *, state: options.State = None, workspace_dir: options.Workspace = options.WORKSPACE, json: options.Json = False
) -> None:
    """List the samples by family: requests, rows, rows with a label, their size, and of which time they are."""
    from proteus_cli.store import Workspace
    from proteus_cli.store.samples.summary import summaries

    found = summaries(Workspace(workspace_dir, state).samples_dir)
    if json:
        console.show_json(found)
    elif found:
        _show(found)
    else:
        console.say("there are no samples; `proteus serve --set samples=1%` captures some of the requests")


def _show(found: "Sequence[SampleSummary]") -> None:
    from proteus_cli.reporting.tables import name, number, table, text
    from proteus_cli.units import format_size

    columns = (text("family"), *map(number, ("requests", "rows", "labelled", "size")), *map(name, ("from (UTC)", "to")))
    rows = table(*columns)
    for each in found:
        times = (f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}" for at in (each.first_unix_s, each.last_unix_s))
        counts = (f"{count:,}" for count in (each.requests, each.rows, each.labelled))
        rows.add_row(each.family, *counts, format_size(each.size_bytes), *times)
    console.show(rows)


@app.command(cls=Command)
def export(
    family: Annotated[str, Argument(metavar="FAMILY", help="A family that has samples.")],
    *,
    output: Annotated[Path, Option("--output", "-o", metavar="NPZ", help="The file to write.")],
    kind: Annotated[
        SplitKind,
        Option(
            "--as",
            help="`eval`: rows with labels, as `proteus profile` reads them. `train`: all rows, with `y` of -1 where "
            "there is no label, and the `answer` and `confidence` that each had.",
        ),
    ] = SplitKind.EVAL,
    labelled_only: Annotated[bool, Option("--labelled-only", help="Leave out rows without a label.")] = False,
    since: Annotated[
        float | None,
        Option(
            **options.DURATION, show_default="all", help="Only requests that were answered within this time before now."
        ),
    ] = None,
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
) -> None:
    """Make an eval split or training data of the samples of a family: an .npz with `y` and an array for each input.

    Labels are those that clients told of these requests, to a server with --feedback.
    """
    from proteus_cli.store import Workspace
    from proteus_cli.store.samples.export import NO_LABEL, sampled_rows, write_split
    from proteus_cli.units import counted

    is_eval = kind is SplitKind.EVAL
    rows = sampled_rows(
        Workspace(workspace_dir, state).samples_dir, family,
        since_unix_s=time.time() - since if since is not None else 0.0, labelled_only=labelled_only or is_eval,
    )  # fmt: skip
    write_split(output, rows, with_answers=not is_eval)
    labelled = int((rows.labels != NO_LABEL).sum())
    console.say(f"wrote {counted(len(rows.labels), 'row')} to {output}, {labelled:,} with a label")


@app.command(cls=Command)
def clear(
    family: Annotated[
        str | None, Argument(metavar="FAMILY", help="Only of this family.", show_default="all families")
    ] = None,
    *,
    state: options.State = None,
    workspace_dir: options.Workspace = options.WORKSPACE,
) -> None:
    """Remove samples and their labels. A server that runs goes on to capture."""
    from proteus_cli.store import Workspace
    from proteus_cli.store.samples.directory import remove, sample_files
    from proteus_cli.units import counted, format_size

    root = Workspace(workspace_dir, state).samples_dir
    files = sample_files(root, family)
    remove(root, files)
    console.say(f"removed {counted(len(files), 'file')}, {format_size(sum(each.size_bytes for each in files))}")
