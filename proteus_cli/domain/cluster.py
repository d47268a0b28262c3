"""Devices and the hosts that they are on, in words.

The machines of a cluster, as `hosts.toml` lists them.

The network between a server and a host of its cluster, as far as it decides what the host's devices can do.

When a host counts as lost, and when it is tried again: the same for the server's links and for the simulator.
"""

import math
from collections.abc import Callable

from proteus_cli.domain.base import Value, is_amount, is_count, require
from proteus_cli.domain.catalog import is_name

MAX_HOSTS = 1000

_LARGEST_PORT = 65_535


def split_address(text: str) -> tuple[str, int]:
    """``"10.0.0.2:7000"`` or ``"[::1]:7000"`` → the host and the port. Raises `ValueError`."""
    host, separator, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and len(port) <= len(str(_LARGEST_PORT)) and int(port) <= _LARGEST_PORT
    is_host = _is_resolvable(bare) and (":" not in bare or bare != host)
    require(bool(separator) and is_port and is_host, f"`{text}` is no address with a port, like `10.0.0.2:7000`")
    return bare, int(port)


def _is_resolvable(host: str) -> bool:
    """Whether a resolver may be asked for it: each label of a name has from 1 to 63 bytes."""
    try:
        return bool(host.encode("idna")) and host.isprintable()
    except UnicodeError:
        return False


class ClusterHost(Value, frozen=True):
    """A machine with an agent, which listens at ``address``."""

    address: str

    def __post_init__(self) -> None:
        require(split_address(self.address)[1] > 0, f"`{self.address}` has no port")


class ClusterHosts(Value, frozen=True):
    """The hosts of a cluster by name; ids of their devices begin with it, like ``a/cpu0``.

    ``key`` is the path of the cluster's key, relative to the file; None: all agents are on this machine.
    """

    hosts: dict[str, ClusterHost]
    key: str | None = None

    def __post_init__(self) -> None:
        require(0 < len(self.hosts) <= MAX_HOSTS, f"a cluster has 1 to {MAX_HOSTS:,} hosts")
        for name in self.hosts:
            require(is_name(name), f"`{name}` is no name of a host: use letters, digits, `.`, `_`, `-`")
        addresses: dict[str, str] = {}
        for name, host in self.hosts.items():
            first = addresses.setdefault(host.address, name)
            require(first == name, f"`{first}` and `{name}` have the same address")


STEPS_PER_DECADE = 10
"""Measurements are rounded to steps of 26 %: measured again they are mostly the same, and like hosts are alike."""


class Network(Value, frozen=True):
    """How long a message takes to a host and back, in seconds, and how much the network carries, in either direction.

    ``row_bytes``: what a row of each family takes there and back together, its inputs and its outputs.
    """

    round_trip_s: float
    bytes_per_s: float
    row_bytes: dict[str, int]

    def __post_init__(self) -> None:
        require(is_amount(self.round_trip_s), "round_trip_s of a network must not be negative")
        require(is_amount(self.bytes_per_s) and self.bytes_per_s > 0, "bytes_per_s of a network must be above zero")
        for family, size in self.row_bytes.items():
            require(is_count(size), f"row_bytes of `{family}` must be a number of bytes")

    @classmethod
    def measured(cls, round_trip_s: float, bytes_per_s: float, row_bytes: dict[str, int]) -> "Network":
        """A measured network, rounded to the next step: time up and bandwidth down."""
        return cls(_step(round_trip_s, math.ceil), _step(bytes_per_s, math.floor), row_bytes)

    def transfer_s(self, family: str, rows: int) -> float:
        """The time that a batch is on its way, there and back; of a family of unknown size only the round trip."""
        return self.round_trip_s + rows * self.row_bytes.get(family, 0) / self.bytes_per_s


def _step(value: float, to_whole: Callable[[float], int]) -> float:
    if value <= 0:
        return 0.0
    steps = to_whole(round(math.log10(value) * STEPS_PER_DECADE, 6))
    return float(f"{10 ** (steps / STEPS_PER_DECADE):.1e}")


BEAT_S = 0.1
"""The longest time between two messages of an agent, in seconds."""

MAX_SILENT = 5
"""A host is dead after this number of checks, `BEAT_S` apart, without a message.

That is 500 ms, as long as a batch may hang at least: a machine whose cores are all busy pauses for less
(`python -m benchmarks.cluster`). An agent that ends is noticed at once, as its connection ends.
"""

CONNECT_S = 2.0
"""For a connection, TLS and the agent's answer, each."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

STEADY_S = 10.0
"""A session of this length is steady. An agent that ends sooner, again and again, is tried at long pauses."""


class ConnectionPauses:
    """The pauses before a host is tried again; each is twice the one before, until a session has been steady."""

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    def next_s(self, session_s: float = 0.0) -> float:
        """The next pause, in seconds, after a session that lasted ``session_s``; 0 where no connection was made."""
        if session_s >= STEADY_S:
            self._next_s = FIRST_PAUSE_S
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, LONGEST_PAUSE_S)
        return pause_s
