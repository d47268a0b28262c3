"""The state of each worker: its phase, its slots, its batches, and how slow it is."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from proteus_cli.control.decision import Admitted, HostedVariant
from proteus_cli.control.devices.slowness import LIMITS, Slowness, StageSlowness
from proteus_cli.control.devices.worker_phase import TRANSITIONS, WorkerEvent, WorkerPhase
from proteus_cli.control.dispatch.host_class import HostClass
from proteus_cli.domain.stages.pace import WayTime


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
        return now_s + (sum(self._take_s) - min(ran_s, self._take_s[0]))  # never before now, whatever is rounded


@dataclass(slots=True, eq=False)
class WorkerState:
    """The state of one worker; its phase moves along `TRANSITIONS`, and a move that is not there raises `KeyError`.

    ``is_serving`` is that phase as a flag, as looking up enum members is slow. The worker uses ``slots`` of its
    device's slots, and ``idle_slots`` of them run no batch. These are negative with a batch submitted ahead, or with
    more batches than slots. ``free`` slots may take a batch: the idle ones while the worker serves, else none. The
    ``classes`` of its hosts know whether there are any. ``in_flight`` is None if batches are not submitted ahead.
    ``ask_self`` is the answer that names this worker.

    ``slowdown`` compares batches with what any of their size takes; capacity goes by it. For multi-exit models that
    also depends on how hard their rows are, and falls if rows are cut short. Their deadlines go by ``stage_slowdown``,
    which compares batches with what their stages take of the rows that got there. ``answer_way`` is the time of their
    answers from the end of a last stage to the driver, beyond the profile of a network.
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
    answer_way: WayTime = field(default_factory=WayTime)
    _given_up: int = 0  # requests in a row, since a batch has ended
    classes: tuple[HostClass, ...] = ()

    def __post_init__(self) -> None:
        self.ask_self, self.free, self.slots = Admitted((self.device,)), self.idle_slots, self.idle_slots

    def take_from(self, classes: Iterable[HostClass]) -> None:
        """The worker hosts for these classes from now on."""
        self.classes = tuple(classes)

    @property
    def slowdowns(self) -> tuple[Slowness | None, StageSlowness]:
        """How slowed it is, as classes count it; no slowdown where it does not serve."""
        return self.slowdown if self.is_serving else None, self.stage_slowdown

    def slowdown_at(self, hosted: HostedVariant) -> float:
        """The factor of a host's least latency that deadlines are computed with."""
        return (self.slowdown if hosted.first_exit is None else self.stage_slowdown).factor

    def least_at(self, hosted: HostedVariant) -> float:
        """The least value that `slowdown_at` may decay to without a batch that shows it."""
        return 1.0 if hosted.first_exit is None else self.stage_slowdown.least

    def decay_slowdown(self, hosted: HostedVariant) -> bool:
        """A request was given up by what `slowdown_at` says. True where it says less now."""
        if hosted.first_exit is None:
            self.slowdown.decay()
            return True
        if is_doubtful := self._gave_up():
            self.stage_slowdown.decay()
        return is_doubtful

    def decay_way(self) -> None:
        """A request was given up that only the time of its answer's way prevents. Expect less after some in a row."""
        if self._gave_up():
            self.answer_way.doubt()

    def _gave_up(self) -> bool:
        self._given_up += 1
        return self._given_up > LIMITS.fresh

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
        """Use ``slots`` slots from now on. Where more run batches, none starts until enough of them have ended."""
        self.idle_slots += slots - self.slots
        self.slots = slots
        self._recount_free()

    def launched(self, takes_s: float, start_s: float) -> None:
        """A batch that should take ``takes_s`` occupies a slot."""
        self.free = self.idle_slots = self.idle_slots - 1
        if not self.free:
            for each in self.classes:
                del each.free[self.device]
        if self.in_flight is not None:
            self.in_flight.add(takes_s, start_s)

    def finished(self) -> None:
        """A batch has left its slot."""
        self.idle_slots += 1
        self._given_up = 0
        if self.is_serving:
            self.free = self.idle_slots
            if self.free == 1:
                for each in self.classes:
                    each.free[self.device] = self.ask_self
        if self.in_flight is not None:
            self.in_flight.ended()

    def _recount_free(self) -> None:
        self.free = self.idle_slots if self.is_serving else 0
        for each in self.classes:
            each.free.pop(self.device, None)
            if self.free > 0:
                each.free[self.device] = self.ask_self
