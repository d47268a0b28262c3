"""``proteus cluster``, and the hosts of a cluster as users name them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from typer import Argument

from proteus_cli.cli import console
from proteus_cli.cli.command_line.command import Command, group_of_commands
from proteus_cli.errors import DeviceUnavailable, UsageError

if TYPE_CHECKING:
    from proteus_cli.serving.devices.remote.channel.address import AgentAddress, Agents, HostList
    from proteus_cli.serving.devices.remote.channel.messages import Inventory

KUBERNETES = "kubernetes:"
AGENT_PORT = 7000

app = group_of_commands("Make the key of a cluster, or end the agents that Ray keeps.")


@app.callback()
def cluster() -> None:
    """Make the key of a cluster, or end the agents that Ray keeps."""


@app.command(cls=Command)
def key(path: Annotated[Path, Argument(metavar="FILE", help="The file to make.")] = Path("cluster.pem")) -> None:
    """Make the key that servers and agents of a cluster know each other by. Copy it to each machine.

    Who has the file may run models on all machines of the cluster, and read what is sent between them.
    """
    from proteus_cli.serving.cluster.new_key import write_key

    write_key(path)
    console.say(f"wrote {path}: copy it to each machine of the cluster, with mode 600")


@app.command(cls=Command)
def down(
    address: Annotated[
        str, Argument(metavar="CLUSTER", help="A cluster of Ray, as for `--cluster`: auto, or ray://HOST:PORT.")
    ] = "auto",
) -> None:
    """End the agents of a Ray cluster, and the actors that keep them. Stop the servers first: they start them again.

    Models and engines stay where the agents kept them.
    """
    from proteus_cli.serving.cluster.ray_nodes import require_ray
    from proteus_cli.units import counted

    if not _is_ray(address):
        raise UsageError(f"`{address}` is no cluster of Ray.", hint="others' agents end as they were started")
    require_ray()
    from proteus_cli.serving.cluster.ray_actors import take_down

    console.say(f"ended {counted(take_down(_ray_address(address)), 'agent')}")


def host_list(text: str, key: Path | None = None, workspace_dir: Path = Path()) -> "HostList":
    """The list that `--cluster` names. ``key`` is `--cluster-key`, for a list that has no key of its own.

    The key of a Ray cluster is in the workspace by default, and is made if it is missing: Ray sends it to the agents.
    Raises `UsageError`, `ArtefactError` for an unusable key, `BackendUnavailable` if Ray is not installed.
    """
    from proteus_cli.serving.cluster.hosts_file import HostsFile
    from proteus_cli.serving.cluster.kubernetes import KubernetesService
    from proteus_cli.serving.cluster.ray_nodes import RayNodes, require_ray
    from proteus_cli.serving.devices.remote.channel.tls import cluster_tls

    if _is_ray(text):
        require_ray()
        return RayNodes(_ray_address(text), key or _key_in(workspace_dir))
    if text.startswith(KUBERNETES):
        if key is None:
            raise UsageError(
                f"`{text}` needs the key of the cluster.", hint="`--cluster-key cluster.pem`, the file that agents have"
            )
        service, port = _service(text.removeprefix(KUBERNETES))
        return KubernetesService(service, port, cluster_tls(key, listens=False))
    if key is not None:
        raise UsageError(f"`{text}` names its key itself.", hint="leave out `--cluster-key`")
    return HostsFile(Path(text))


def _is_ray(text: str) -> bool:
    return text in {"ray", "auto"} or text.startswith("ray://")


def _ray_address(text: str) -> str:
    """The address of a cluster as Ray calls it: ``auto`` is the cluster that this machine is part of."""
    return "auto" if text == "ray" else text


def _key_in(workspace_dir: Path) -> Path:
    """The key of the workspace. Raises `ArtefactError`, `BackendUnavailable`."""
    from proteus_cli.serving.cluster.new_key import write_key

    path = workspace_dir / "cluster.pem"
    if not path.exists():
        write_key(path)
        console.say(f"wrote {path}: the key of the cluster, which Ray takes to its agents")
    return path


def _service(text: str) -> tuple[str, int]:
    """The name of a service and the port of its agents, 7000 by default. Raises `UsageError`."""
    from proteus_cli.store import split_address

    try:
        service, port = split_address(text if ":" in text else f"{text}:{AGENT_PORT}")
    except ValueError as error:
        raise UsageError(f"`--cluster {KUBERNETES}{text}`: {error}.", hint="kubernetes:proteus-agents:7000") from None
    if not port:
        raise UsageError(f"`--cluster {KUBERNETES}{text}`: agents listen on no port 0.", hint="leave the port out")
    return service, port


# --- agents


class ReachedHost(NamedTuple):
    """The inventory of an agent, and the seconds until its answer came."""

    inventory: "Inventory"
    round_trip_s: float


def reached_at(agents: "Agents") -> dict[str, ReachedHost | DeviceUnavailable]:
    """The answer of each agent, by host, or why there is none."""
    import asyncio

    from proteus_cli.serving.devices.remote.sessions.connecting import probe

    async def reached(agent: "AgentAddress") -> ReachedHost | DeviceUnavailable:
        try:
            return ReachedHost(*await probe(agent))
        except DeviceUnavailable as error:
            return error
        except OSError as error:
            return DeviceUnavailable(
                f"Host {agent} can't be reached: {str(error) or 'no answer'}.", hint="is `proteus agent` running there?"
            )

    async def all_of_them() -> list[ReachedHost | DeviceUnavailable]:
        return await asyncio.gather(*map(reached, agents.values()))

    return dict(zip(agents, asyncio.run(all_of_them()), strict=True))
