"""Lanes, and the desks at which they take what waits."""

from dataclasses import dataclass, field

import msgspec

from proteus_cli.control.deadline_queue import DeadlineQueue
from proteus_cli.control.decision import Hosted
from proteus_cli.control.family_queue import FamilyQueue
from proteus_cli.control.in_flight import InFlightBatches
from proteus_cli.control.slowdown import SlowdownEstimator


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """The request waits now; ask these lanes what to do."""

    devices: tuple[str, ...]


NOBODY = Admitted(())


@dataclass(slots=True, eq=False)
class AccuracyTier:
    """A line and the lanes that take from it, in the order of its hosts. Those there surely carry ``capacity_qps``.

    ``pace``: how many times longer than profiled their batches take. It ``is_lost`` where all of them are.
    """

    queue: FamilyQueue
    workers: tuple[tuple[Hosted, "WorkerState"], ...] = ()
    capacity_qps: float = 0.0
    slowdown: float = 1.0
    is_lost: bool = False

    def free(self) -> list[str]:
        """The lanes with a free slot."""
        return [host.device for host, worker in self.workers if worker.free > 0]

    def ask_free(self) -> Admitted:
        """Its lanes with a free slot are to be asked."""
        free = self.free()
        return Admitted(tuple(free)) if free else NOBODY

    def count_capacity(self) -> None:
        """Count anew what the lanes that are there carry at their pace."""
        self.is_lost = bool(self.workers) and all(worker.is_lost for _, worker in self.workers)
        there = [(host.capacity_qps, worker.slowdown) for host, worker in self.workers if not worker.is_away]
        self.capacity_qps = sum(qps / slowdown.upper for qps, slowdown in there)
        usual_qps = sum(qps / slowdown.factor for qps, slowdown in there)
        self.slowdown = sum(qps for qps, _ in there) / usual_qps if usual_qps > 0 else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class WorkSource:
    """A variant that a lane hosts, a desk that it takes from, and one of its queues there, or the only one."""

    hosted: Hosted
    tier: AccuracyTier
    family_queue: FamilyQueue
    level: int
    queue: DeadlineQueue
    is_only: bool

    def is_before(self, other: "WorkSource") -> bool:
        """Its first request goes before that of another seat; at both, some wait."""
        return self.level < other.level or (self.level == other.level and self.queue.is_before(other.queue))


def sources_of(hosted: Hosted, tier: AccuracyTier) -> list[WorkSource]:
    """One at each level."""
    queues = tier.queue.queues_of(hosted)
    is_only = len(queues) == 1
    return [WorkSource(hosted, tier, tier.queue, level, queue, is_only) for level, queue in queues.items()]


@dataclass(slots=True, eq=False)
class WorkerState:
    """What is known of a device; ``free`` are its slots, below 0 where batches stand behind the one that runs.

    ``calls``: lanes that should be asked, as this one leaves them work. One that is ``away`` has no free slots;
    ``held`` are those that it will have again. While it ``is_lost``, it is away whatever is loaded. ``alone``: only it
    is to be asked. ``flight`` is kept where the next batch may stand behind the one that runs.
    """

    free: int
    ask_self: Admitted
    held: int = 0
    is_away: bool = False
    is_lost: bool = False
    slowdown: SlowdownEstimator = field(default_factory=SlowdownEstimator)
    sources: tuple[WorkSource, ...] = ()
    to_wake: list[str] = field(default_factory=list)
    in_flight: InFlightBatches | None = None

    @property
    def families(self) -> frozenset[str]:
        return frozenset(source.hosted.family for source in self.sources)
