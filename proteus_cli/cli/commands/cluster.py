"""``proteus cluster``: what the machines of a cluster have in common."""

from pathlib import Path

import typer

from proteus_cli.cli import console
from proteus_cli.cli.command import Command, Group
from proteus_cli.cli.options import cluster as options

app = typer.Typer(cls=Group, rich_markup_mode=None, help="Make the key of a cluster.", no_args_is_help=True)


@app.callback()
def cluster() -> None:
    """Make the key of a cluster."""


@app.command(cls=Command)
def key(path: options.NewKey = Path("cluster.pem")) -> None:
    """Make the key that servers and agents of a cluster know each other by. Copy it to each machine.

    Who has the file may run models on all machines of the cluster, and read what is sent between them.
    """
    from proteus_cli.cli.workflows.cluster import write_key

    write_key(path)
    console.say(f"wrote {path}: copy it to each machine of the cluster, with mode 600")
