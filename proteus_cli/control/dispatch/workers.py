"""The state of each worker, and the queues that it takes from."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from proteus_cli.control.decision import Admitted, Host
from proteus_cli.control.dispatch.deadline_queue import DeadlineQueue
from proteus_cli.control.dispatch.family_queue import FamilyQueue
from proteus_cli.control.topology.slowdown import SlowdownEstimator


class InFlightBatches:
    """Batches that a device runs one after another, in the order of their submission."""

    def __init__(self) -> None:
        self._take_s: deque[float] = deque()
        self._first_start_s: float | None = None  # None: not noted yet

    def __len__(self) -> int:
        return len(self._take_s)

    def add(self, takes_s: float, at_s: float) -> None:
        """Add a batch that should take ``takes_s``; on an idle device it begins ``at_s``."""
        if not self._take_s:
            self._first_start_s = at_s
        self._take_s.append(takes_s)

    def ended(self) -> None:
        """The first batch has ended; when the next began is not known before `note_start`."""
        self._take_s.popleft()
        self._first_start_s = None

    def note_start(self, now_s: float) -> None:
        """The first batch runs by ``now_s``: that is its start where no earlier one is known."""
        if self._first_start_s is None:
            self._first_start_s = now_s

    def ends_s(self, now_s: float) -> float:
        """When all batches should have ended; a batch that takes longer than it should may end at any moment."""
        if not self._take_s:
            return now_s
        ran_s = now_s - self._first_start_s if self._first_start_s is not None else 0.0
        return now_s + sum(self._take_s) - min(ran_s, self._take_s[0])


class WorkerPhase(StrEnum):
    SERVING = "serving"
    LOADING = "loading"
    LOST = "lost"


class WorkerEvent(StrEnum):
    LOAD_STARTED = "load started"
    LOAD_ENDED = "load ended"  # also where it was given up
    DEVICE_LOST = "device lost"
    DEVICE_RECOVERED = "device recovered"


TRANSITIONS: dict[WorkerPhase, dict[WorkerEvent, WorkerPhase]] = {
    WorkerPhase.SERVING: {
        WorkerEvent.LOAD_STARTED: WorkerPhase.LOADING,
        WorkerEvent.DEVICE_LOST: WorkerPhase.LOST,
    },
    WorkerPhase.LOADING: {
        WorkerEvent.LOAD_ENDED: WorkerPhase.SERVING,
        WorkerEvent.DEVICE_LOST: WorkerPhase.LOST,
    },
    WorkerPhase.LOST: {
        WorkerEvent.DEVICE_LOST: WorkerPhase.LOST,
        WorkerEvent.DEVICE_RECOVERED: WorkerPhase.SERVING,
    },
}


NOBODY = Admitted(())


@dataclass(slots=True, eq=False)
class AccuracyTier:
    """A queue and the workers that take from it, in the order of the queue's hosts.

    The workers that serve carry ``capacity_qps`` even at the upper bounds of their slowdowns, in batches of
    ``batch_rows`` together; ``slowdown`` is their mean, weighted by capacity. A tier ``is_lost`` where all of its
    devices are lost.
    """

    queue: FamilyQueue
    workers: tuple[tuple[Host, "WorkerState"], ...] = ()
    capacity_qps: float = 0.0
    batch_rows: int = 0
    slowdown: float = 1.0
    is_lost: bool = False

    def free(self) -> list[str]:
        """Devices with a free slot."""
        return [host.device for host, worker in self.workers if worker.free > 0]

    def ask_free(self) -> Admitted:
        """Ask the workers that have a free slot."""
        free = self.free()
        return Admitted(tuple(free)) if free else NOBODY

    def count_capacity(self) -> None:
        """Count capacity and slowdown anew."""
        self.is_lost = bool(self.workers) and all(worker.phase is WorkerPhase.LOST for _, worker in self.workers)
        serving = [(host.capacity_qps, worker.slowdown) for host, worker in self.workers if worker.is_serving]
        self.batch_rows = sum(host.max_batch for host, worker in self.workers if worker.is_serving)
        self.capacity_qps = sum(qps / slowdown.upper for qps, slowdown in serving)
        usual_qps = sum(qps / slowdown.factor for qps, slowdown in serving)
        self.slowdown = sum(qps for qps, _ in serving) / usual_qps if usual_qps > 0 else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class WorkSource:
    """One queue that a worker takes from, for one variant that it hosts.

    ``queue`` is the part of ``family_queue`` with the priority ``level``; ``is_only`` where there is no other level.
    """

    hosted: Host
    tier: AccuracyTier
    family_queue: FamilyQueue
    level: int
    queue: DeadlineQueue
    is_only: bool

    def is_before(self, other: "WorkSource") -> bool:
        """The first request here is more urgent than that of another source. In both, requests must wait."""
        return self.level < other.level or (self.level == other.level and self.queue.is_before(other.queue))


def sources_of(hosted: Host, tier: AccuracyTier) -> list[WorkSource]:
    """One source for each level of priority."""
    queues = tier.queue.queues_of(hosted)
    is_only = len(queues) == 1
    return [WorkSource(hosted, tier, tier.queue, level, queue, is_only) for level, queue in queues.items()]


@dataclass(slots=True, eq=False)
class WorkerState:
    """The state of one worker; its phase moves along `TRANSITIONS`, and a move that is not there raises `KeyError`.

    ``is_serving`` is that phase as a flag, as looking up enum members is slow. ``idle_slots`` run no batch; a batch
    that is submitted ahead makes them negative. ``free`` slots may take a batch: the idle ones while the worker serves,
    else none. ``to_wake``: devices that this worker leaves work to.
    ``in_flight`` is None where batches are not submitted ahead. ``ask_self`` is the answer that names this worker only.
    """

    idle_slots: int
    ask_self: Admitted
    in_flight: InFlightBatches | None = None
    free: int = field(init=False)
    phase: WorkerPhase = WorkerPhase.SERVING
    is_serving: bool = True
    slowdown: SlowdownEstimator = field(default_factory=SlowdownEstimator)
    sources: tuple[WorkSource, ...] = ()
    to_wake: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = self.idle_slots

    def on(self, event: WorkerEvent) -> None:
        self.phase = TRANSITIONS[self.phase][event]
        self.is_serving = self.phase is WorkerPhase.SERVING
        self.free = self.idle_slots if self.is_serving else 0

    def launched(self, takes_s: float, start_s: float) -> None:
        """A batch that should take ``takes_s`` occupies a slot."""
        self.idle_slots -= 1
        self.free = self.idle_slots
        if self.in_flight is not None:
            self.in_flight.add(takes_s, start_s)

    def finished(self) -> None:
        """A batch has left its slot."""
        self.idle_slots += 1
        if self.is_serving:
            self.free = self.idle_slots
        if self.in_flight is not None:
            self.in_flight.ended()

    @property
    def families(self) -> frozenset[str]:
        """Families that this worker serves."""
        return frozenset(source.hosted.family for source in self.sources)
