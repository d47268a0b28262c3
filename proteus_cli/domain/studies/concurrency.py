"""What a study of concurrency finds: the scatter of a variant on a device, by what is done at once, and its knee."""

from collections.abc import Iterable
from typing import Literal

from proteus_cli.domain.base import Value
from proteus_cli.domain.concurrency.knee import Knee, ScatterSample

StudiedWay = Literal["thread", "process", "emulated", "threads", "split"]
"""What the number is that varies: batches in flight on the device, as served in a thread of the server, in a process of
its own, or emulated; threads of the device's runtime; or devices that the cores are split into."""

IN_FLIGHT: frozenset[StudiedWay] = frozenset({"thread", "process", "emulated"})


class ConcurrencyResult(Value, frozen=True):
    """The ``samples`` of a variant with a batch size, by the number that varies (``in_flight``); rows per second.

    The device has so many ``cores`` (0: a GPU), and runs so many batches at once (``slots``).
    """

    family: str
    variant: str
    batch: int
    way: StudiedWay
    cores: int
    slots: int
    knee: Knee
    samples: tuple[ScatterSample, ...]

    @property
    def best(self) -> int:
        """The number to use."""
        return self.knee.in_flight

    def gain(self, number: int, over: int) -> float:
        """How much more throughput a number has than another one, as a part of that one's."""
        by_number = {level.in_flight: level.throughput for level in self.knee.levels}
        return by_number[number] / by_number[over] - 1 if by_number.get(over) else 0.0


class ConcurrencyConclusion(Value, frozen=True):
    """What to use, so that no variant loses: slots, threads, and devices to split the cores into; 0: not studied."""

    slots: int
    threads: int
    devices: int


def concluded(results: Iterable[ConcurrencyResult]) -> ConcurrencyConclusion:
    """The largest number that a variant needs; of devices, the smallest, as each takes a copy of the model."""
    of_way: dict[StudiedWay, list[ConcurrencyResult]] = {}
    for result in results:
        of_way.setdefault(result.way, []).append(result)
    in_slots = [min(each.best, each.slots) for way in IN_FLIGHT for each in of_way.get(way, ())]
    return ConcurrencyConclusion(
        slots=max(in_slots, default=0),
        threads=max((each.best for each in of_way.get("threads", ())), default=0),
        devices=min((each.best for each in of_way.get("split", ())), default=0),
    )
