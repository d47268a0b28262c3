"""The network between a server and a host of its cluster, as far as it decides what the host's devices can do."""

import math
from collections.abc import Callable

from proteus_cli.domain.base import Value, is_amount, is_count, require

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
        """A network of which this was measured: rounded to the next step, time up and bandwidth down."""
        return cls(_step(round_trip_s, math.ceil), _step(bytes_per_s, math.floor), row_bytes)

    def transfer_s(self, family: str, rows: int) -> float:
        """The time that a batch is on its way, there and back; of a family of unknown size only the round trip."""
        return self.round_trip_s + rows * self.row_bytes.get(family, 0) / self.bytes_per_s


def _step(value: float, to_whole: Callable[[float], int]) -> float:
    if value <= 0:
        return 0.0
    steps = to_whole(round(math.log10(value) * STEPS_PER_DECADE, 6))
    return float(f"{10 ** (steps / STEPS_PER_DECADE):.1e}")
