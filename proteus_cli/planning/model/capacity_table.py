"""Capacities by the number of hosts, of many choices at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.capacity import NO_CAPACITY, Capacity, CapacityStep

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True, eq=False)
class CapacityTable:
    """Up to K steps of each of N rows: the ``hosts`` [N, K] from which each begins, and ``capacities`` [N][K + 1].

    A row's first capacity is that of too few hosts for its first step: none.
    """

    hosts: Ints
    capacities: tuple[tuple[Capacity, ...], ...]
    qps: Floats

    @classmethod
    def of(cls, rows: Sequence[Sequence[CapacityStep]]) -> "CapacityTable":
        """Steps rise."""
        most = max(map(len, rows), default=0)
        hosts, qps = np.full((len(rows), most), NEVER, dtype=np.int64), np.zeros((len(rows), most + 1))
        for n, steps in enumerate(rows):
            hosts[n, : len(steps)] = [step.hosts for step in steps]
            qps[n, 1 : len(steps) + 1] = [step.capacity.qps for step in steps]
        return cls(hosts, tuple((NO_CAPACITY, *(step.capacity for step in steps)) for steps in rows), qps)

    def at(self, hosts: Ints) -> tuple[tuple[Capacity, ...], Floats]:
        """The capacity of each row where so many hosts [N] serve its family, and what it is in queries per second."""
        step = np.count_nonzero(self.hosts <= hosts[:, None], axis=1)
        capacities = tuple(row[s] for row, s in zip(self.capacities, step.tolist(), strict=True))
        return capacities, self.qps[np.arange(len(step)), step]
