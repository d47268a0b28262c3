"""``proteus cluster``: the key that the machines of a cluster have in common, and the end of what Ray keeps there."""

from pathlib import Path

from proteus_cli.cli import console
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.cli.options import cluster as options

app = group_of_commands("Make the key of a cluster, or end the agents that Ray keeps.")


@app.callback()
def cluster() -> None:
    """Make the key of a cluster, or end the agents that Ray keeps."""


@app.command(cls=Command)
def key(path: options.NewKey = Path("cluster.pem")) -> None:
    """Make the key that servers and agents of a cluster know each other by. Copy it to each machine.

    Who has the file may run models on all machines of the cluster, and read what is sent between them.
    """
    from proteus_cli.serving.cluster.new_key import write_key

    write_key(path)
    console.say(f"wrote {path}: copy it to each machine of the cluster, with mode 600")


@app.command(cls=Command)
def down(address: options.RayAddress = "auto") -> None:
    """End the agents of a Ray cluster, and the actors that keep them. Stop the servers first: they start them again.

    Models and engines stay where the agents kept them.
    """
    from proteus_cli.cli.workflows.cluster.hosts import is_ray, ray_address
    from proteus_cli.errors import UsageError
    from proteus_cli.serving.cluster.ray_nodes import require_ray
    from proteus_cli.units import counted

    if not is_ray(address):
        raise UsageError(f"`{address}` is no cluster of Ray.", hint="others' agents end as they were started")
    require_ray()
    from proteus_cli.serving.cluster.ray_actors import take_down

    console.say(f"ended {counted(take_down(ray_address(address)), 'agent')}")
