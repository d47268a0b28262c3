"""The network between a server and the hosts of its cluster.

A host counts as lost, and is tried again, by the same constants in the server's links and in the simulator.
"""

from proteus_cli.domain.base import Amount, Count, PositiveAmount, Value

MAX_HOSTS = 1000


class Network(Value, frozen=True):
    """How long a message takes to a host and back, in seconds, and how much the network carries, in either direction.

    ``row_bytes``: what a row of each family takes there and back together, its inputs and its outputs.
    """

    round_trip_s: Amount
    bytes_per_s: PositiveAmount
    row_bytes: dict[str, Count]

    def transfer_s(self, family: str, rows: int) -> float:
        """The time that a batch is on its way, there and back; of a family of unknown size only the round trip."""
        return self.round_trip_s + rows * self.row_bytes.get(family, 0) / self.bytes_per_s


BEAT_S = 0.1
"""The longest time between two messages of an agent, in seconds."""

MAX_SILENT = 5
"""A host is dead after this number of checks, `BEAT_S` apart, without a message.

That is 500 ms, as long as a batch may hang at least: a machine whose cores are all busy pauses for less
(`benchmarks.cluster` of 1ab7c97d). An agent that ends is noticed at once, as its connection ends.
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
