"""Slices: what devices do for a short time, and what became of it. These values cross to the processes of devices."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

import msgspec

from proteus_cli.domain.catalog import VariantKey

MAX_BATCHES = 20_000
"""Of a workload in a slice: what comes after is not run, so that an answer fits in memory."""


class Work(msgspec.Struct, frozen=True):
    """A batch of a variant; without a ``key``, some memory that is streamed."""

    key: VariantKey | None
    batch: int


STREAM = Work(None, 0)


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """A batch of the workload's ``work`` arrives so long after the slice began."""

    at_s: float
    work: int


class Workload(msgspec.Struct, frozen=True):
    """What a device does in a slice: works in turn without a pause; or, with ``arrivals`` in order, as they arrive."""

    works: tuple[Work, ...]
    arrivals: tuple[Arrival, ...] | None = None

    def part_of(self, slot: int, slots: int) -> "Workload":
        """What one of several slots does: each takes every so many arrivals."""
        return self if self.arrivals is None else Workload(self.works, self.arrivals[slot::slots])


class Ran(msgspec.Struct, frozen=True, array_like=True):
    """A batch of a workload: the place of its work, and when it arrived, began and ended, from the begin of the slice.

    ``batch_s`` is what it took, without the time in which its device had no core, as other programs had it.
    """

    work: int
    arrived_s: float
    began_s: float
    ended_s: float
    batch_s: float

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.arrived_s


@dataclass(frozen=True, slots=True)
class SliceClock:
    """``now_s`` is 0 when the slice begins; ``busy_s`` goes on with it only while the device has its cores."""

    now_s: Callable[[], float]
    busy_s: Callable[[], float]
    sleep_until: Callable[[float], object]


def run_workload(
    workload: Workload, run: Callable[[Work], object], length_s: float, clock: SliceClock, *, first: int = 0
) -> list[Ran]:
    """Run the batches of a workload until ``length_s``; the last may end after the slice.

    ``first`` is the place of the work whose turn is first.
    """
    arrivals = workload.arrivals if workload.arrivals is not None else _in_turn(len(workload.works), first)
    done: list[Ran] = []
    for arrival in islice(arrivals, MAX_BATCHES):
        if arrival.at_s > 0:
            clock.sleep_until(arrival.at_s)
        began_s, busy_s = clock.now_s(), clock.busy_s()
        if began_s >= length_s:
            break
        run(workload.works[arrival.work])
        took_s, ended_s = clock.busy_s() - busy_s, clock.now_s()
        arrived_s = began_s if workload.arrivals is None else arrival.at_s
        done.append(Ran(arrival.work, arrived_s, began_s, ended_s, took_s))
    return done


def _in_turn(works: int, first: int) -> Iterator[Arrival]:
    """Each batch arrives when there is a turn for it."""
    return (Arrival(0.0, (first + turn) % works) for turn in count())
