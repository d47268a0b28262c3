"""How many batches a device runs at once, learned while it serves.

Theory of operation
===================

A device of several slots runs one batch in each. The best number of busy slots depends on the hosted variants, the
machine and its neighbours, and so changes while the device serves. `SlotTuner` watches one device and says how many of
its slots to use. It never uses more slots than the device was opened with, and always at least one.

**Measurement.** The number of running batches changes when one begins or ends. `SlotBins` counts the seconds that each
batch spends with 1, 2, … batches running. With n running, each batch progresses at a speed r(n). A batch with w seconds
of profiled work that spent t(n) seconds with n running is the equation Σ t(n)·r(n) = w. A `SlotWindow` holds the sums
of a regression over these equations: the cost of a batch is a few dozen additions, and the memory is constant.

**Estimate.** `Throughputs` has the throughput with n running, X(n) = n·r(n), over the last windows. Its unit is
profiled seconds of work a second. A jackknife over windows gives the standard error of each comparison. The knee is the
smallest n whose throughput is within `TOLERANCE_FRAC` of the highest.

**Decision.** *Down*: to a number that surely loses less than `TOLERANCE_FRAC`. Load varies, so smaller numbers are seen
without a trial. *Up*: only after a `SlotTrial`, in which windows with more slots alternate with windows as before while
all slots are busy. The device gets a slot that surely gains more than `TOLERANCE_FRAC`. A device that is always busy
also has trials downwards. The first trial after a change goes far, to twice or half the number. A trial ends early if
it surely gains too little. Each failed trial doubles the next pause.

**Stability.** Down needs proof that a slot is worth less than the tolerance; up needs proof that it is worth more. One
device gives proof of both only by chance.

**Restart.** If two windows in a row of one number of slots differ from the estimate by more than chance, older windows
are forgotten. A change of hosted variants, servers or neighbours forgets all windows and pauses (`begin_anew`). The
number of slots stays until another one is proved better.

A smaller number aborts no batch: the device starts the next one when enough have ended.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats

# `benchmarks.study` of 1ab7c97d compares the tuner with each fixed number of slots. Its seeds were not used to choose
# these constants.

# Windows.
WINDOWS = (
    (0.1, 10),
    (0.4, 4),
    (2.0, 0),
)  # seconds and batches after which one ends: short ones where batches are short
KEPT_WINDOWS = 60  # of the estimate: 6 s of the shortest windows, 2 min of the longest

TOLERANCE_FRAC = 0.03  # of the throughput: the least gain that is worth one more slot

# The estimate.
MIN_ERROR = 0.002  # the least relative standard error, for the scatter of clocks
SURE_ERRORS = 2.0  # standard errors on one side: 97.7 %
RIDGE = 1e-9  # of the trace: an unseen number has no equation
MIN_WINDOWS = 3  # in which a known number was seen
SEEN_FRAC = 0.02  # of the batch time of a window in which a number was seen
MAX_GROUPS = 12  # of windows; the jackknife leaves out one group at a time

# Trials of another number of slots.
FULL_FRAC = 0.5  # of a window with all slots busy, at which a trial may begin; it ends below half of this
TRIAL_WINDOWS = 6  # of a trial: three with the tried number, in turn with three as before
FIRST_PAUSE_S = 1.0  # after the first failed trial
LONGEST_PAUSE_S = 60.0  # windows with the other number are then 2 % of the time
OVERLOADED_S = 2.0  # with all slots busy, after which trials downwards begin

# Windows that differ from the estimate.
MISS_FRAC = 0.15  # the least relative difference
MISS_ERRORS = 4.0  # the least difference, in multiples of the usual scatter of windows
SCATTER_WEIGHT = 0.1  # of one window in the running mean of that scatter
KNOWN_FRAC = 0.8  # of the batch time of a window at known numbers, for a comparison
TINY_S = 1e-9  # of profiled work: a window without work has no logarithm

Exposure = tuple[float, ...]
"""The device's seconds with 0, 1, 2, … batches running, up to the begin of a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class SlotWindow:
    """The sums over a stretch of time with this number of ``slots``.

    ``seconds`` by the number of running batches, from 0 on. For a batch, t(n) are its seconds with n running, T is
    their sum, and w its profiled work. Over ``batches``, ``products`` is Σ t(n)·t(m)/T, ``work`` is Σ t(n)·w/T,
    ``work_s`` is Σ w, and ``service_s`` is Σ T.
    """

    slots: int
    seconds: Floats
    products: Floats
    work: Floats
    batches: int
    work_s: float
    service_s: float

    @property
    def lasted_s(self) -> float:
        """The length of the window, idle time included."""
        return float(self.seconds.sum())

    @property
    def mean_running(self) -> float:
        """The mean number of running batches."""
        return float(self.seconds @ np.arange(len(self.seconds)) / self.lasted_s)

    @property
    def full_frac(self) -> float:
        """The part of the time in which all slots were busy."""
        return float(self.seconds[self.slots :].sum()) / self.lasted_s if self.lasted_s > 0 else 0.0


class SlotBins:
    """Follows the batches of a device of ``slots``."""

    def __init__(self, slots: int, now_s: float) -> None:
        self._levels = slots
        self._clock = [0.0] * (slots + 1)  # seconds by running batches
        self._at_s = now_s
        self.running = 0
        self._begin_window(now_s)

    def began(self, now_s: float) -> Exposure:
        """Record the begin of a batch. The answer is for `ended`."""
        exposure = tuple(self.seconds(now_s))
        self.running += 1
        return exposure

    def ended(self, exposure: Exposure, work_s: float | None, now_s: float) -> None:
        """Record the end of a batch with ``work_s`` of profiled work; None: it failed, and does not count."""
        clock = self.seconds(now_s)
        self.running -= 1
        seen = [(level, after - exposure[level]) for level, after in enumerate(clock) if after > exposure[level]]
        took_s = sum([seconds for _, seconds in seen])
        if work_s is None or took_s <= 0:
            return
        for level, seconds in seen:
            part, row = seconds / took_s, self._products[level]
            self._work[level] += part * work_s
            for other, other_s in seen:
                row[other] += part * other_s
        self.batches += 1
        self._work_s += work_s
        self._service_s += took_s

    def lost(self, now_s: float) -> None:
        """The device is lost with all running batches."""
        self.seconds(now_s)
        self.running = 0

    def seconds(self, now_s: float) -> list[float]:
        """The seconds so far with 0, 1, 2 … batches running."""
        self._clock[min(self.running, self._levels)] += max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        return list(self._clock)

    def is_due(self, now_s: float) -> bool:
        """Whether the present window is long enough."""
        lasted_s = now_s - self._since_s
        return any(lasted_s >= min_s and self.batches >= min_batches for min_s, min_batches in WINDOWS)

    def window(self, slots: int, now_s: float) -> SlotWindow:
        """End the present window, which had this number of ``slots``, and begin the next."""
        found = SlotWindow(
            slots,
            np.array(self.seconds(now_s)) - self._clock_before,
            np.array(self._products)[1:, 1:],
            np.array(self._work)[1:],
            self.batches,
            self._work_s,
            self._service_s,
        )
        self._begin_window(now_s)
        return found

    def _begin_window(self, now_s: float) -> None:
        self._since_s, self._clock_before = now_s, np.array(self._clock)
        self._products = [[0.0] * (self._levels + 1) for _ in range(self._levels + 1)]
        self._work = [0.0] * (self._levels + 1)
        self._work_s = self._service_s = 0.0
        self.batches = 0


@dataclass(frozen=True, slots=True, eq=False)
class Throughputs:
    """Profiled seconds of work a second by the number of running batches.

    ``levels`` are the known numbers, rising. ``values`` has the throughput with 1, 2, … running. ``without`` has a row
    for each group of windows: the same without this group. Values of unknown numbers mean nothing.
    """

    levels: Sequence[int]
    values: Floats
    without: Floats

    def of(self, running: int) -> float:
        """The throughput with this number of batches ``running``, from 1 on."""
        return float(self.values[running - 1])

    def error(self, running: int) -> float:
        """The standard error of `of`."""
        return _jackknife(self.without[:, running - 1])

    def bounds(self, running: int, other: int) -> tuple[float, float]:
        """The lower and the upper bound of the throughput of ``running`` over the throughput of ``other``.

        Few windows widen them, about as Student's t does.
        """
        if running == other:
            return 1.0, 1.0
        ratio, ratios = self.of(running) / self.of(other), self.without[:, running - 1] / self.without[:, other - 1]
        few = 1 + 2 / max(len(ratios) - 1, 1)
        margin = SURE_ERRORS * few * max(_jackknife(ratios), MIN_ERROR)
        return ratio - margin, ratio + margin

    def expected_work_s(self, window: SlotWindow) -> float:
        """The profiled work that a window's batches should have done, in seconds; 0 if too much of it is unknown."""
        batch_s = window.products.sum(axis=1)
        known = np.array(self.levels) - 1
        known_s, total_s = float(batch_s[known].sum()), float(batch_s.sum())
        if known_s < KNOWN_FRAC * total_s or known_s == 0:
            return 0.0
        return float(batch_s[known] @ (self.values[known] / (known + 1))) * total_s / known_s


def throughputs(windows: Sequence[SlotWindow]) -> Throughputs | None:
    """The estimate over these windows; None if no number was seen in `MIN_WINDOWS` of them."""
    windows = [window for window in windows if window.batches]
    if len(windows) < MIN_WINDOWS:
        return None
    products, work = np.array([each.products for each in windows]), np.array([each.work for each in windows])
    batch_s = products.sum(axis=2)
    seen = (batch_s > 0) & (batch_s >= SEEN_FRAC * batch_s.sum(axis=1, keepdims=True))
    is_known = seen.sum(axis=0) >= MIN_WINDOWS
    group = np.arange(len(windows)) % MAX_GROUPS
    weights = np.array([group >= 0, *(group != left_out for left_out in range(group.max() + 1))], dtype=float)
    sums, counts = np.tensordot(weights, products, 1), np.arange(1, work.shape[1] + 1)
    ridge = RIDGE * np.trace(sums, axis1=1, axis2=2)[:, np.newaxis, np.newaxis] * np.eye(len(counts))
    found = np.linalg.solve(sums + ridge, (weights @ work)[..., np.newaxis])[..., 0] * counts  # X(n) = n·r(n)
    is_known &= (found > 0).all(axis=0)
    return Throughputs(counts[is_known].tolist(), found[0], found[1:]) if is_known.any() else None


def _jackknife(without: Floats) -> float:
    groups = len(without)
    return float(np.sqrt((groups - 1) * np.mean((without - without.mean()) ** 2)))


@dataclass(frozen=True, slots=True)
class SlotChange:
    """The device uses this number of ``slots`` from ``at_s`` on."""

    at_s: float
    slots: int
    reason: str


@dataclass(slots=True)
class SlotTrial:
    """A trial of another number of slots, which every second window has."""

    slots: int
    windows_left: int = TRIAL_WINDOWS


class SlotTuner:
    """Decides for one device how many of its ``max_slots`` run batches: all at first.

    The driver calls `began` and `ended` for each batch, and `look` several times a second. ``settled`` is the number of
    slots apart from a trial.
    """

    def __init__(self, max_slots: int, now_s: float) -> None:
        self.max_slots = self.settled = max_slots
        self.bins = SlotBins(max_slots, now_s)
        self.began, self.ended = self.bins.began, self.bins.ended
        self.windows: deque[SlotWindow] = deque(maxlen=KEPT_WINDOWS)
        self.estimate: Throughputs | None = None
        self.trial: SlotTrial | None = None
        self.changes: deque[SlotChange] = deque(maxlen=20)
        self.changed = self.trials = self.begun_anew = 0
        self._full_since_s, self._patience_s = math.inf, 0.0  # patience: with all slots busy, before a trial downwards
        self._restart(now_s)

    @property
    def slots(self) -> int:
        """The number of slots that run batches now."""
        return self.settled if self.trial is None or self.trial.windows_left % 2 else self.trial.slots

    @property
    def knee(self) -> int | None:
        """The knee among the known numbers; None while no number is known."""
        if (known := self.estimate) is None:
            return None
        least = (1 - TOLERANCE_FRAC) * max(map(known.of, known.levels))
        return next(level for level in known.levels if known.of(level) >= least)

    def lost(self, now_s: float) -> None:
        """The device is lost with all running batches."""
        self.bins.lost(now_s)
        self.begin_anew(now_s)

    def begin_anew(self, now_s: float) -> None:
        """Forget all windows and pauses after a change outside. The number of slots stays."""
        self.windows.clear()
        self.trial = None
        self._restart(now_s)
        self.begun_anew += 1

    def look(self, now_s: float) -> int:
        """The number of slots from now on."""
        if not self.bins.is_due(now_s):
            return self.slots
        window = self.bins.window(self.slots, now_s)
        is_full = window.full_frac >= FULL_FRAC
        self._full_since_s = min(self._full_since_s, now_s) if is_full else math.inf
        if not window.batches:
            self.trial = None
            return self.slots
        self.windows.append(window)
        self._compare(window, now_s)
        self.estimate = throughputs(self.windows)
        if self.trial is not None:
            self.trial.windows_left -= 1
        target = self._better()
        if target is not None:
            self._change_to(target, now_s)
        elif self.trial is not None:
            if not self.trial.windows_left or window.full_frac < FULL_FRAC / 2 or self._is_futile(self.trial):
                self._give_up(self.trial, now_s)
        elif is_full:
            self._try(now_s)
        return self.slots

    # --- changes

    def _better(self) -> int | None:
        """A larger number that surely carries more, or the smallest that surely carries as much; None without one."""
        known, now = self.estimate, self.settled
        if known is None or now not in known.levels:
            return None
        least = {level: known.bounds(level, now)[0] for level in known.levels}
        up = [level for level in known.levels if level > now and least[level] >= 1 + TOLERANCE_FRAC]
        down = [level for level in known.levels if level < now and least[level] >= 1 - TOLERANCE_FRAC]
        best = max(map(known.of, down), default=0.0)
        return next(iter(up or [level for level in down if known.of(level) >= (1 - TOLERANCE_FRAC) * best]), None)

    def _change_to(self, target: int, now_s: float) -> None:
        step = 1 if target > self.settled else -1
        self.settled, self.trial = target, None
        self.changes.append(SlotChange(now_s, target, "more carry more" if step > 0 else "fewer carry as much"))
        self.changed += 1
        self._pause_s = {step: 0.0, -step: FIRST_PAUSE_S}  # one more step the same way may be as good
        self._tried_s = {1: now_s, -1: now_s}
        self._tries_far[-step] = False  # the device comes from there

    # --- trials

    def _try(self, now_s: float) -> None:
        """Begin a trial upwards if its pause is over; else one downwards, to an unknown number, under overload."""
        far, now = self._tries_far, self.settled
        more = min(2 * now, self.max_slots) if far[1] else now + 1
        fewer = now // 2 if far[-1] else now - 1
        is_known = self.estimate is not None and fewer in self.estimate.levels
        is_overloaded = now_s - self._full_since_s >= self._patience_s
        for step, tried, may_try in (
            (1, more, now < more <= self.max_slots),
            (-1, fewer, fewer >= 1 and is_overloaded and not is_known),
        ):
            if may_try and now_s >= self._tried_s[step] + self._pause_s[step]:
                self.trial, self._patience_s = SlotTrial(tried), OVERLOADED_S
                self.trials += 1
                return

    def _is_futile(self, trial: SlotTrial) -> bool:
        """Whether the tried number surely gains too little, and its last window agrees with the estimate."""
        known, now = self.estimate, self.settled
        if known is None or trial.windows_left % 2 == 0 or trial.slots in self._misses:
            return False
        least = 1 + TOLERANCE_FRAC if trial.slots > now else 1 - TOLERANCE_FRAC
        return {trial.slots, now} <= set(known.levels) and known.bounds(trial.slots, now)[1] < least

    def _give_up(self, trial: SlotTrial, now_s: float) -> None:
        """End a trial that has shown no better number; the next pause is longer."""
        step = 1 if trial.slots > self.settled else -1
        self.trial = None
        self._tried_s[step] = now_s
        self._pause_s[step] = min(max(2 * self._pause_s[step], FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._tries_far[step] = step < 0 and not self._tries_far[step]

    # --- the estimate

    def _compare(self, window: SlotWindow, now_s: float) -> None:
        """Forget older windows if this one and the last of its number both differ from the estimate, to one side."""
        expected_s = 0.0 if self.estimate is None else self.estimate.expected_work_s(window)
        miss = math.log(max(window.work_s, TINY_S) / expected_s) if expected_s > 0 else 0.0
        if abs(miss) <= max(MISS_FRAC, MISS_ERRORS * math.sqrt(self._scatter)):
            self._scatter += SCATTER_WEIGHT * (miss * miss - self._scatter)
            self._misses.pop(window.slots, None)
            return
        last, since = self._misses.get(window.slots, (0.0, window))
        self._misses[window.slots] = miss, window
        if last * miss > 0 and since in self.windows:
            while self.windows[0] is not since:
                self.windows.popleft()
            self._restart(now_s)
            self.begun_anew += 1

    def _restart(self, now_s: float) -> None:
        """Estimate anew from the remaining windows; trials need not wait."""
        self._pause_s, self._tried_s = {1: 0.0, -1: 0.0}, {1: now_s, -1: now_s}  # by direction, up or down
        self._tries_far = {1: True, -1: True}
        self._patience_s = 0.0
        self.estimate = None
        self._misses: dict[int, tuple[float, SlotWindow]] = {}  # by slots: the last window, if it missed the estimate
        self._scatter = 0.0  # of windows about the estimate, a running mean of squares
