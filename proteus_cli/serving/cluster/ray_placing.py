"""Which nodes of a Ray cluster are hosts, what these are called, and when to report them. Knows no Ray."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from proteus_cli.domain.catalog import is_name


class Listed(msgspec.Struct, frozen=True, tag=True):
    """The hosts with an agent, all of them, and where these listen."""

    hosts: Mapping[str, tuple[str, int]]


class Problem(msgspec.Struct, frozen=True, tag=True):
    """Warnings for the user. ``is_fatal``: no hosts will be listed."""

    message: str
    hint: str = ""
    is_fatal: bool = True


RayReport = Listed | Problem


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node that Ray takes for alive: its id, its name, the name of its machine, and its address."""

    id: str
    name: str
    machine: str
    address: str


class Actors(Protocol):
    """The actors of a cluster, one on each node, which keep agents there."""

    def nodes(self) -> Sequence[RayNode]:
        """The nodes that Ray takes for alive."""
        ...

    def place(self, hosts: Mapping[str, str], key: bytes) -> Mapping[str, str]:
        """Have an actor on each node of ``hosts``, the names of hosts by node; what fails, by node."""
        ...

    def where(self) -> Mapping[str, tuple[str, int] | str]:
        """Where agents listen, or why there is none, by node, of the nodes whose actors answer."""
        ...


def named(nodes: Iterable[RayNode], before: Mapping[str, str]) -> dict[str, str]:
    """The names of hosts, by node: what `ray start --node-name` says, else the name of the machine, else its address.

    Among nodes with the same name, the one that had it ``before`` keeps it, else the one with the smallest id.
    """
    names: dict[str, str] = {}
    for node in sorted(nodes, key=lambda node: (node.id not in before, node.id)):
        choices = [node.name] * (node.name != node.address) + [node.machine, node.address.replace(":", ".")]
        name = before.get(node.id) or next((choice for choice in choices if is_name(choice)), node.id)
        if name not in names.values():
            names[node.id] = name
    return names


class Placing:
    """Places agents, and reports hosts that change."""

    def __init__(self, actors: Actors, key: bytes, report: Callable[[RayReport], None]) -> None:
        self._actors, self._key, self._report = actors, key, report
        self._names: dict[str, str] = {}  # of hosts, by node
        self._where: dict[str, tuple[str, int]] = {}  # by node
        self._before: RayReport | None = None
        self._said: set[str] = set()

    def look(self, *, is_patient: bool) -> None:
        """Look at all nodes once. A patient look reports nothing as long as a node has no agent yet."""
        nodes = {node.id: node for node in self._actors.nodes()}
        self._names = named(nodes.values(), {node: name for node, name in self._names.items() if node in nodes})
        for node in nodes.values():
            if node.id not in self._names:
                self._say(f"several nodes of Ray are called {node.name} or {node.machine}, and one of them is used")
        for place, problem in self._actors.place(self._names, self._key).items():
            self._say(f"Ray can't keep an agent on {self._names[place]}: {problem}")
        before = {place: where for place, where in self._where.items() if place in self._names}
        answers = self._actors.where()
        for place, answer in answers.items():
            if isinstance(answer, str):
                self._say(f"no agent can be started on {self._names[place]}: {answer}")
        self._where = {**before, **{place: where for place, where in answers.items() if not isinstance(where, str)}}
        if is_patient and len(self._where) < len(self._names):
            return
        listed = Listed({self._names[place]: where for place, where in sorted(self._where.items())})
        if listed != self._before:
            self._before = listed
            self._report(listed)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._report(Problem(text, is_fatal=False))
