"""The state of each worker, and the queues that it takes from."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from proteus_cli.control.decision import Admitted, Host
from proteus_cli.control.devices.slowness import Slowness, StageSlowness
from proteus_cli.control.devices.worker_phase import TRANSITIONS, WorkerEvent, WorkerPhase
from proteus_cli.control.dispatch.answer_way import AnswerWay
from proteus_cli.control.dispatch.in_flight import InFlightBatches
from proteus_cli.control.dispatch.queues.deadline_queue import DeadlineQueue
from proteus_cli.control.dispatch.queues.family_queue import FamilyQueue
from proteus_cli.control.dispatch.queues.host_class import HostClass, spared_qps
from proteus_cli.control.dispatch.queues.waiting_worker import WaitingWorker
from proteus_cli.domain.request import ANY_CANARY, Request

NOBODY = Admitted(())
_IS_RESERVED = attrgetter("is_reserved")


@dataclass(slots=True, eq=False)
class AccuracyTier:
    """A queue, and the classes of the hosts that take from it, the most accurate first.

    The workers that serve carry ``capacity_qps`` even at the upper bounds of their slowdowns, in batches of
    ``batch_rows`` together, and ``usual_qps`` at their slowdowns as they are; ``slowdown`` is their mean, weighted by
    capacity. ``least_row_s`` is what the fastest host takes to answer one row, as profiled; infinite where there is
    none. Where the tier ``has_overflow``, the capacity includes the standbys on these devices. ``warm`` classes of
    standbys answer requests that no host can answer in time, the most accurate first. A tier ``is_lost`` where all of
    its devices are lost. ``running`` counts rows in batches of a tier that not all hosts of the family belong to, on
    its ``placements`` (device and variant). ``asked`` is whom `next_worker` named last, and ``waiting``, if that one
    waits, for how long no arrival matters to it; ``is_full`` where it found no free worker. All hold until something
    has `changed`. Deferred requests have tiers of their own, each ``is_of_deferred``. A tier ``is_of_canaries`` where
    the new version of `Twins` takes from it. What is counted here is kept up to date in steps: a decision never looks
    at all workers.
    """

    queue: FamilyQueue
    classes: tuple[HostClass, ...] = ()
    is_of_deferred: bool = False
    is_of_canaries: bool = False
    has_overflow: bool = False
    placements: frozenset[tuple[str, str]] = frozenset()
    has_reserved: bool = False
    warm: tuple[HostClass, ...] = ()
    running: int = 0
    capacity_qps: float = 0.0
    usual_qps: float = 0.0
    batch_rows: int = 0
    slowdown: float = 1.0
    least_row_s: float = math.inf
    is_lost: bool = False
    asked: Admitted | None = None
    waiting: WaitingWorker | None = None
    is_full: bool = False
    _lost: set[Host] = field(default_factory=set)

    def use(
        self,
        workers: "Mapping[str, WorkerState]",
        running: Mapping[Host, int],
        warm: Iterable[HostClass] = (),
    ) -> None:
        """Count the workers of the queue's hosts from now on; they have so many rows ``running``.

        ``warm`` standbys answer requests that no host can answer in time.
        """
        self.classes, self._lost = self.queue.classes, set()
        self.warm = tuple(warm)
        self.placements = frozenset((host.device, host.variant) for host in self.queue.hosts)
        self.running = sum(rows for host, rows in running.items() if (host.device, host.variant) in self.placements)
        self.has_reserved = any(each.is_reserved for each in self.classes)
        self.changed()
        spared = spared_qps(self.queue.hosts, {host.device: workers[host.device].slots for host in self.queue.hosts})
        for each in self.classes:
            each.spared_qps = sum([spared.get(host, 0.0) for host in each.hosts])
        for each in self.classes:
            for host in each.hosts:
                worker = workers[host.device]
                if worker.free > 0:
                    each.free[host.device] = worker.ask_self
                self._count(host, each, worker)
        self.least_row_s = self.least_s(1)
        self._sum_up()

    def count(self, host: Host, host_class: HostClass, worker: "WorkerState") -> None:
        """The phase or the slowdown of a worker has changed."""
        self._count(host, host_class, worker)
        self._sum_up()

    def changed(self) -> None:
        """The queue, a quota or a worker has changed otherwise than by an arrival: no answer from before holds."""
        self.asked = self.waiting = None
        self.is_full = False

    def max_rows_within(self, budget_s: float, at_most: int) -> int:
        """The most rows, up to ``at_most``, that a batch of one of the hosts answers in that time, as profiled."""
        return max([each.host.least_latency.max_rows_within(budget_s, at_most) for each in self.classes], default=0)

    def least_s(self, rows: int) -> float:
        """What the fastest of the hosts takes to answer so many rows, as profiled; infinite where there is none."""
        return min([each.host.least_latency(rows) for each in self.classes], default=math.inf)

    def is_timely(self, rows: int, budget_s: float) -> bool:
        """A host that serves has an answer to so many rows in that time, where it has nothing else to do."""
        return any(each.serving and each.least_s(rows) <= budget_s for each in self.classes)

    def rows_at_once(self, budget_s: float) -> int:
        """The rows that free workers which cut rows short have answers to in that time, in one batch each.

        Of so little time that these could not be whole, the capacity, which is that of whole answers, says nothing.
        """
        cutting = [each for each in self.classes if each.host.cuts and each.free]
        return sum([len(each.free) * each.rows_within(budget_s) for each in cutting])

    def next_worker(self, queue: DeadlineQueue, due_s: Callable[[Request], float], now_s: float) -> Admitted:
        """Ask one free worker about a queue in which requests wait, or nobody.

        First come workers with quota. Next, those that may take over from busy workers at once, since no accuracy is
        lost: the most accurate that can make any request. Else the most accurate that can make the first one. Those
        that are reserved for second stages come last.
        """
        self.asked = self.waiting = None
        free: list[HostClass] = []  # `list[HostClass]()` would take 0.6 µs
        least = math.inf
        for each in self.classes:
            if each.free:
                if each.quota:
                    return next(iter(each.free.values()))
                free.append(each)
            elif each.quota:
                least = each.host.rank  # the classes come in order
        if not free or least == math.inf:
            self.is_full = not free
            return NOBODY
        is_any_taken_over = free[0].host.rank >= least
        if self.has_reserved:
            free.sort(key=_IS_RESERVED)
        last_left_s, left_s = due_s(queue.last()) - now_s, due_s(queue.head()) - now_s
        for each in free:
            within_s = last_left_s if each.host.rank >= least else left_s
            if each.least_row_s <= within_s and (able := each.free_within(within_s)) is not None:
                self.asked = None if is_any_taken_over else able  # then it does not depend on the last request
                return able
        return next(iter(free[-1].free.values()))

    def overflow(self, own: HostClass, device: str, rows: int, left_s: float) -> float:
        """How many of so many rows that wait are more than what workers more accurate than a class can make.

        They have ``left_s``, until the first is due. They are busy, and in the mean free after half a batch; from then
        on they carry their capacity. The ``device`` that asks, where it hosts a more accurate variant, too, is free,
        and that may have all of their family's time: so of several, the most accurate that makes all goes on. For a
        class that is reserved, all other workers count.
        """
        timely = own.spared_qps / self.slowdown * max(left_s, 0.0) if own.spared_qps else 0.0
        rank = -math.inf if own.is_reserved else own.host.rank
        for each in self.classes:
            if each.host.rank <= rank:  # the classes come in order
                break
            if each is own:
                continue
            if each.serving:
                timely += each.usual_qps * max(left_s if device in each.free else left_s - each.half_full_s, 0.0)
        return rows - timely

    def next_warm(self, request: Request, left_s: float) -> tuple[HostClass, Admitted] | None:
        """The most accurate standbys that a free device answers a request by in that time, and that device."""
        for each in self.warm:
            if each.free and takes_standby(request, each.host):
                able = each.free_within(left_s, request.rows)
                if able is not None:
                    return each, able
        return None

    def is_timely_by_warm(self, request: Request, left_s: float) -> bool:
        """Whether a serving standby could answer a request within ``left_s``, on an idle device."""
        rows = request.rows
        return any(e.serving and takes_standby(request, e.host) and e.least_s(rows) <= left_s for e in self.warm)

    def _count(self, host: Host, host_class: HostClass, worker: "WorkerState") -> None:
        self.changed()
        host_class.count(host, *worker.slowdowns)
        if worker.phase is WorkerPhase.LOST:
            self._lost.add(host)
        else:
            self._lost.discard(host)

    def _sum_up(self) -> None:
        classes = self.classes
        self.is_lost = bool(self._lost) and len(self._lost) == len(self.queue.hosts)
        self.capacity_qps = sum([each.capacity_qps for each in classes])
        if self.has_overflow:
            self.capacity_qps += sum([each.overflow_qps for each in classes])
        self.batch_rows = sum([each.serving * each.host.max_batch for each in classes])
        self.usual_qps = usual_qps = sum([each.usual_qps for each in classes])
        self.slowdown = sum([each.planned_qps for each in classes]) / usual_qps if usual_qps > 0 else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class WorkSource:
    """One queue that a worker takes from, for one variant that it hosts.

    ``queue`` is the part of ``family_queue`` with the priority ``level``; ``is_only`` where there is no other level.
    Its requests must have ended ``second_s`` before their deadlines, where they leave that to a second stage. Of a
    tier that has overflow, ``overflow`` is the same for the standby that answers it, if there is one.
    """

    hosted: Host
    host_class: HostClass
    tier: AccuracyTier
    family_queue: FamilyQueue
    level: int
    queue: DeadlineQueue
    is_only: bool
    second_s: float
    overflow: "WorkSource | None" = None

    def is_before(self, other: "WorkSource", place: int = 0, other_place: int = 0) -> bool:
        """The request at a place here is more urgent than that at a place of another source."""
        if self.level != other.level:
            return self.level < other.level
        due_s = self.queue.at(place).deadline_s - self.second_s
        return due_s < other.queue.at(other_place).deadline_s - other.second_s


def warm_sources(tier: AccuracyTier) -> Iterator[WorkSource]:
    """One source for each level at which requests wait, for whichever standby answers them."""
    first = tier.warm[0]
    queues = tier.queue.queues_of(first)
    for level, queue in queues.items():
        if queue.rows:
            yield WorkSource(first.host, first, tier, tier.queue, level, queue, len(queues) == 1, 0.0)


def takes_standby(request: Request, standby: Host) -> bool:
    """Whether a standby keeps what a request asks for; what it takes of energy is not known before its batch."""
    bounds = request.bounds
    if request.min_accuracy > standby.accuracy:
        return False
    if bounds is None or bounds == ANY_CANARY:
        return True
    is_accurate = bounds.min_expected_accuracy <= standby.accuracy
    return is_accurate and not bounds.is_energy_limited and bounds.accepts(standby.variant)


def sources_of(hosted: Host, host_class: HostClass, tier: AccuracyTier) -> list[WorkSource]:
    """One source for each level of priority."""
    queues = tier.queue.queues_of(host_class)
    is_only, second_s = len(queues) == 1, 0.0 if tier.is_of_deferred else hosted.second_s
    found = [
        WorkSource(hosted, host_class, tier, tier.queue, level, queue, is_only, second_s)
        for level, queue in queues.items()
    ]
    if tier.has_overflow and hosted.overflow is not None:
        return [replace(each, overflow=replace(each, hosted=hosted.overflow)) for each in found]
    return found


@dataclass(slots=True, eq=False)
class WorkerState:
    """The state of one worker; its phase moves along `TRANSITIONS`, and a move that is not there raises `KeyError`.

    ``is_serving`` is that phase as a flag, as looking up enum members is slow. It uses ``slots`` of those that its
    device was opened with. ``idle_slots`` of these run no batch; a batch that is submitted ahead makes them negative,
    and so do fewer slots than batches. ``free`` slots may take a batch: the idle ones while the worker serves, else
    none; the classes of its hosts know whether there are any.
    ``in_flight`` is None where batches are not submitted ahead. ``ask_self`` is the answer that names this worker.
    It takes requests from ``sources``; ``by_class`` has one of each class. ``warm`` are the standbys on its device by
    class, ``families`` those of its hosts and standbys. It ``has_one_queue`` where it has one source, of the only
    level.

    Capacity goes by ``slowdown``: what batches take in place of what any of their size takes. Of multi-exit models,
    that also depends on how hard their rows are, and falls where rows are cut short. So their deadlines go by
    ``stage_slowdown``: what batches take in place of what their stages take of the rows that got there, at most.
    ``answer_way``: how long their answers are on their way.
    """

    device: str
    idle_slots: int
    in_flight: InFlightBatches | None = None
    ask_self: Admitted = field(init=False)
    free: int = field(init=False)
    slots: int = field(init=False)
    phase: WorkerPhase = WorkerPhase.SERVING
    is_serving: bool = True
    slowdown: Slowness = field(default_factory=Slowness)
    stage_slowdown: StageSlowness = field(default_factory=StageSlowness)
    answer_way: AnswerWay = field(default_factory=AnswerWay)
    sources: tuple[WorkSource, ...] = ()
    by_class: tuple[WorkSource, ...] = ()
    warm: Mapping[HostClass, Host] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    has_one_queue: bool = False
    _classes: tuple[HostClass, ...] = ()
    _tiers: tuple[AccuracyTier, ...] = ()

    def __post_init__(self) -> None:
        self.ask_self, self.free, self.slots = Admitted((self.device,)), self.idle_slots, self.idle_slots

    @property
    def is_idle(self) -> bool:
        """Whether the worker serves, runs nothing, and has nothing to take."""
        return self.free == self.slots and not any(source.queue.rows for source in self.sources)

    def take_from(self, sources: Sequence[WorkSource]) -> None:
        """Take from these sources from now on."""
        self.sources = tuple(sources)
        self.has_one_queue = [each.is_only for each in self.sources] == [True]
        self.by_class = tuple({source.host_class: source for source in self.sources}.values())
        self._classes = (*(source.host_class for source in self.by_class), *self.warm)
        self.families = tuple(dict.fromkeys(each.host.family for each in self._classes))
        self._tiers = tuple(dict.fromkeys(source.tier for source in self.sources))

    @property
    def slowdowns(self) -> tuple[Slowness | None, StageSlowness]:
        """How slowed it is, as classes count it; no slowdown where it does not serve."""
        return self.slowdown if self.is_serving else None, self.stage_slowdown

    def slowdown_at(self, hosted: Host) -> float:
        """What deadlines go by there: a factor of its least latency."""
        return (self.slowdown if hosted.first_exit is None else self.stage_slowdown).factor

    def least_at(self, hosted: Host) -> float:
        """What `slowdown_at` may come down to where nothing runs that shows it."""
        return 1.0 if hosted.first_exit is None else self.stage_slowdown.least

    def doubt(self, hosted: Host) -> bool:
        """A request was given up by what `slowdown_at` says. True where it says less now."""
        if hosted.first_exit is not None:
            return self.stage_slowdown.doubt()
        self.slowdown.doubt()
        return True

    def load_began(self) -> None:
        """An engine is being loaded beside the batches, which take longer meanwhile."""
        self.slowdown.load_began()
        self.stage_slowdown.load_began()

    def load_ended(self) -> None:
        """No load slows batches any more: expect no more than before it."""
        self.slowdown.load_ended()
        self.stage_slowdown.load_ended()

    def on(self, event: WorkerEvent) -> None:
        """Move along `TRANSITIONS`. Raises `KeyError` where the phase does not know the event: a bug."""
        self.phase = TRANSITIONS[self.phase][event]
        self.is_serving = self.phase is WorkerPhase.SERVING
        self._recount_free()

    def use_slots(self, slots: int) -> None:
        """Use so many slots from now on. Where more run batches, none starts until enough of them have ended."""
        self.idle_slots += slots - self.slots
        self.slots = slots
        self._recount_free()

    def launched(self, takes_s: float, start_s: float) -> None:
        """A batch that should take ``takes_s`` occupies a slot."""
        self.free = self.idle_slots = self.idle_slots - 1
        if not self.free:
            for each in self._classes:
                del each.free[self.device]
        for tier in self._tiers:
            tier.changed()
        if self.in_flight is not None:
            self.in_flight.add(takes_s, start_s)

    def finished(self) -> None:
        """A batch has left its slot."""
        self.idle_slots += 1
        for tier in self._tiers:
            tier.changed()
        if self.is_serving:
            self.free = self.idle_slots
            if self.free == 1:
                for each in self._classes:
                    each.free[self.device] = self.ask_self
        if self.in_flight is not None:
            self.in_flight.ended()

    def _recount_free(self) -> None:
        self.free = self.idle_slots if self.is_serving else 0
        for tier in self._tiers:
            tier.changed()
        for each in self._classes:
            each.free.pop(self.device, None)
            if self.free > 0:
                each.free[self.device] = self.ask_self
