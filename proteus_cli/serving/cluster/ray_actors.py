"""The actors that keep agents on the nodes of a Ray cluster; the only module that knows Ray.

An actor is detached: it stays when its maker goes, until `take_down`. Ray restarts it with what it was made with, the
key of the cluster included, which so lies in the memory of Ray's head (docs/security.md).
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnschedulableError, GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from proteus_cli.errors import DeviceUnavailable
from proteus_cli.serving.cluster.agent_keeper import AgentKeeper, AgentSpec
from proteus_cli.serving.cluster.ray_placing import RayNode

NAMESPACE = "proteus"
ANSWER_S = 5.0
"""For all actors to answer."""

STOP_S = 30.0
"""For an actor to end its agent."""


class KeeperActor:
    """The actor of a node. It takes no CPUs and no GPUs of Ray's, so Ray does not count what its agent uses."""

    def __init__(self, host: str, key: bytes) -> None:
        environment = _environment_of_node()
        state = state_directory(environment) / host
        self._keeper = AgentKeeper(AgentSpec(host, ray.util.get_node_ip_address(), key, state, environment))
        threading.Thread(target=self._keeper.run, daemon=True).start()

    def where(self) -> tuple[str, int] | str | None:
        """As `AgentKeeper.where`."""
        return self._keeper.where()

    def stop(self) -> None:
        """End the agent."""
        self._keeper.stop()


def state_directory(environment: Mapping[str, str]) -> Path:
    """Where the agents of a node keep models and engines: `$PROTEUS_STATE`, as `ray start` had it, or a cache."""
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(environment.get("PROTEUS_STATE") or Path(cache) / "proteus-agent")


def _environment_of_node() -> dict[str, str]:
    """That of the node's own process: Ray hides GPUs from actors that ask for none, and limits threads."""
    text = Path(f"/proc/{os.getppid()}/environ").read_bytes().decode(errors="surrogateescape")
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


class RayActors:
    """`Actors` of the cluster that this process is connected to."""

    def __init__(self) -> None:
        self._by_node: dict[str, Any] = {}

    def nodes(self) -> Sequence[RayNode]:
        """The nodes that Ray takes for alive."""
        return [
            RayNode(node["NodeID"], node["NodeName"], node["NodeManagerHostname"], node["NodeManagerAddress"])
            for node in ray.nodes()
            if node["Alive"]
        ]

    def place(self, hosts: Mapping[str, str], key: bytes) -> Mapping[str, str]:
        """Have an actor on each node of ``hosts``, the names of hosts by node; what fails, by node."""
        self._by_node = {node: actor for node, actor in self._by_node.items() if node in hosts}
        failed = {}
        for node in hosts.keys() - self._by_node.keys():
            try:
                self._by_node[node] = _actor_on(node, hosts[node], key)
            except (RayError, ValueError) as error:
                failed[node] = str(error)
        return failed

    def where(self) -> Mapping[str, tuple[str, int] | str]:
        """See `Actors.where`. Actors that are dead are forgotten."""
        asked = {actor.where.remote(): node for node, actor in self._by_node.items()}
        if not asked:
            return {}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
        found = {}
        for answer in answered:
            try:
                where = ray.get(answer)
            except (RayActorError, ActorUnschedulableError):
                self._by_node.pop(asked[answer])
            else:
                if where is not None:
                    found[asked[answer]] = where
        return found


def _actor_on(node: str, host: str, key: bytes) -> Any:
    """The actor of a node; it is made where there is none."""
    return (
        ray.remote(KeeperActor)
        .options(
            name=node,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        .remote(host, key)
    )


@contextmanager
def connected(address: str) -> Iterator[RayActors]:
    """The actors of the cluster at ``address``, ``auto`` or ``ray://…``. Raises `DeviceUnavailable`."""
    try:
        ray.init(address, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    except (ConnectionError, RayError, RuntimeError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DeviceUnavailable(
            f"No cluster of Ray at `{address}`: {why}",
            hint="`ray start --head` starts one, `ray start --address HOST:6379` adds a node; `ray status` shows it",
        ) from error
    try:
        yield RayActors()
    finally:
        ray.shutdown()


def take_down(address: str) -> int:
    """End all agents of a Ray cluster, and the actors that keep them; returns how many. Raises `DeviceUnavailable`."""
    with connected(address):
        names = [each["name"] for each in ray.util.list_named_actors(all_namespaces=True) if _is_ours(each)]
        actors = [ray.get_actor(name, namespace=NAMESPACE) for name in names]
        stopping = [actor.stop.remote() for actor in actors]
        for actor, stopped in zip(actors, stopping, strict=True):
            with suppress(RayActorError, GetTimeoutError):  # its agent ends by itself, as it has no keeper any more
                ray.get(stopped, timeout=STOP_S)
            ray.kill(actor)
        return len(actors)


def _is_ours(actor: Mapping[str, str]) -> bool:
    return actor["namespace"] == NAMESPACE
