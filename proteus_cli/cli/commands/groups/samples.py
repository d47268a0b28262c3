"""``proteus samples``: requests that ``proteus serve --samples`` has captured."""

import time

from proteus_cli.cli import console
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.cli.options import common
from proteus_cli.cli.options.groups import samples as options

app = group_of_commands("List, export or remove requests that a server has captured.")


@app.command("list", cls=Command)
def list_samples(
    *, state: common.State = None, workspace_dir: common.Workspace = common.WORKSPACE, json: common.Json = False
) -> None:
    """List the samples by family: requests, rows, rows with a label, their size, and of which time they are."""
    from proteus_cli.cli.views.sample_table import sample_table
    from proteus_cli.store import Workspace
    from proteus_cli.store.samples.summary import summaries

    found = summaries(Workspace(workspace_dir, state).samples_dir)
    if json:
        console.show_json(found)
        return
    if found:
        console.show(sample_table(found))
    else:
        console.say("there are no samples; `proteus serve --samples 1%` captures some of the requests")


@app.command(cls=Command)
def export(
    family: options.FamilyName,
    *,
    output: options.Output,
    kind: options.As = options.SplitKind.EVAL,
    labelled_only: options.LabelledOnly = False,
    since: options.Since = None,
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
) -> None:
    """Make an eval split or training data of the samples of a family: an .npz with `y` and an array for each input.

    Labels are those that clients told of these requests, to a server with --feedback.
    """
    from proteus_cli.store import Workspace
    from proteus_cli.store.samples.export import NO_LABEL, sampled_rows, write_split
    from proteus_cli.units import counted

    is_eval = kind is options.SplitKind.EVAL
    rows = sampled_rows(
        Workspace(workspace_dir, state).samples_dir, family,
        since_unix_s=time.time() - since if since is not None else 0.0, labelled_only=labelled_only or is_eval,
    )  # fmt: skip
    write_split(output, rows, with_answers=not is_eval)
    labelled = int((rows.labels != NO_LABEL).sum())
    console.say(f"wrote {counted(len(rows.labels), 'row')} to {output}, {labelled:,} with a label")


@app.command(cls=Command)
def clear(
    family: options.OnlyFamily = None,
    *,
    state: common.State = None,
    workspace_dir: common.Workspace = common.WORKSPACE,
) -> None:
    """Remove samples and their labels. A server that runs goes on to capture."""
    from proteus_cli.store import Workspace
    from proteus_cli.store.samples.directory import remove, sample_files
    from proteus_cli.units import counted, format_size

    root = Workspace(workspace_dir, state).samples_dir
    files = sample_files(root, family)
    remove(root, files)
    console.say(f"removed {counted(len(files), 'file')}, {format_size(sum(each.size_bytes for each in files))}")
