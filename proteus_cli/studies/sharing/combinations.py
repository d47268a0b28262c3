"""The combinations of a round: a variant alone, or all together; what devices do in each, and what is seen of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from proteus_cli.studies.results import FULL_LOAD, Served
from proteus_cli.studies.sharing.bench.slices import STREAM, Arrival, Ran, Work, Workload
from proteus_cli.studies.sharing.cells import SharingCell

Combination = tuple[int, ...]
"""The places of the cell's variants that run: one alone, or all."""

_MIDDLE = 4
"""A quarter of the batches at either end has no part in the midmean."""

FEWEST_COUNTED = 2
"""Arrivals of a work in a slice that count, at least."""
IDLE = Workload(())


def combinations_of(cell: SharingCell) -> tuple[Combination, ...]:
    """Each variant alone, then all together."""
    places = tuple(range(len(cell.works)))
    return (*((place,) for place in places), places)


def device_of(cell: SharingCell, place: int) -> int:
    """The place of the device that runs that variant, in every combination."""
    return place if cell.where == "neighbour" else 0


def workloads_of(
    cell: SharingCell, works: Mapping[int, Work], took_s: Sequence[float], length_s: float, slots: int,
    rng: np.random.Generator, *, with_stream: bool,
) -> list[Workload]:  # fmt: skip
    """What the devices do: the ``works`` by their place in the cell, each on its device, in an order that is random.

    ``took_s`` is what their batches take alone.
    """
    by_device: dict[int, list[int]] = {}
    for place in works:
        by_device.setdefault(device_of(cell, place), []).append(place)
    workloads = [IDLE] * (1 + max(by_device))
    for device, places in by_device.items():
        order = [places[each] for each in rng.permutation(len(places))]
        turns = tuple(works[place] for place in order)
        arrivals = None
        if cell.load < FULL_LOAD:
            rates_qps = [slots * cell.load / len(order) / took_s[place] for place in order]
            arrivals = arrivals_of(rates_qps, length_s, slots + FEWEST_COUNTED, rng)
        workloads[device] = Workload(turns, arrivals)
    if with_stream and cell.where == "device":
        workloads[0] = Workload((*workloads[0].works, STREAM))
    elif with_stream:
        workloads.append(Workload((STREAM,)))
    return workloads


def arrivals_of(
    rates_qps: Sequence[float], length_s: float, fewest: int, rng: np.random.Generator
) -> tuple[Arrival, ...]:
    """Batches that arrive at random: of each work as many as its rate makes, ``fewest`` at least, at independent times.

    These are arrivals of Poisson processes, given how many there are; so each slice has the same work.
    """
    found = [
        Arrival(float(at_s), work)
        for work, rate_qps in enumerate(rates_qps)
        for at_s in rng.uniform(0, length_s, max(round(rate_qps * length_s), fewest))
    ]
    return tuple(sorted(found, key=lambda arrival: arrival.at_s))


@dataclass(frozen=True, slots=True)
class Sight:
    """What a slice shows of one variant: the ``batches`` that count, and all its ``rows`` that ran in ``span_s``."""

    batches: Sequence[Ran]
    rows: int
    span_s: float


def sight_of(work: Work, workload: Workload, ran: Sequence[Ran], length_s: float, slots: int) -> Sight:
    """The batches of a work that count, of a device with so many slots.

    The first of each slot is left out, which finds the caches as the last slice left them, and so is what ended after
    the slice, when others may have stopped.
    """
    of_work = sorted((each for each in ran if workload.works[each.work] == work), key=lambda each: each.began_s)
    counted = [each for each in of_work[slots:] if each.ended_s <= length_s]
    last_s = max((each.ended_s for each in ran), default=length_s)
    first_s = min((each.began_s for each in ran), default=0.0) if workload.arrivals is None else 0.0
    span_s = last_s - first_s if workload.arrivals is None else max(last_s, length_s)
    return Sight(counted, work.batch * len(of_work), span_s)


@dataclass(slots=True)
class Seen:
    """What was seen of one variant in one combination: each round's centre of its batch times, and all latencies."""

    centres_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    _rows: int = 0
    _span_s: float = 0.0

    def add(self, sight: Sight) -> None:
        """Note what a round shows."""
        self.centres_s.append(midmean([each.batch_s for each in sight.batches]))
        self.latencies_s += [each.latency_s for each in sight.batches]
        self._rows += sight.rows
        self._span_s += sight.span_s

    @property
    def served(self) -> Served:
        p50_s, p95_s, p99_s = (float(value) for value in np.percentile(self.latencies_s, (50, 95, 99)))
        mean_s = sum(self.latencies_s) / len(self.latencies_s)
        return Served(len(self.latencies_s), self._rows / self._span_s, mean_s, p50_s, p95_s, p99_s)


def midmean(values: Sequence[float]) -> float:
    """The mean of the middle half: it follows a shift of all values, and a few that are far off do not move it."""
    left_out = len(values) // _MIDDLE
    middle = sorted(values)[left_out : len(values) - left_out]
    return sum(middle) / len(middle)
