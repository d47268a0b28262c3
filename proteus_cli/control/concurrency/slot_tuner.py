"""Decides how many slots of a device run batches, from the windows of `slot_bins`. The package has the theory."""

import math
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

from proteus_cli.control.concurrency.slot_bins import Exposure, SlotBins, SlotWindow
from proteus_cli.control.concurrency.throughputs import Throughputs, throughputs
from proteus_cli.domain.knee import TOLERANCE_FRAC, knee_place

# The constants of the tuner. `python -m benchmarks.study --parts concurrency` shows their effect beside that of each
# fixed number of slots, on seeds that had no part in choosing them; tests/control/concurrency/test_slot_tuner.py tests
# what each group is for.

# Windows: a short one where batches are short, so that a change is seen soon.
WINDOWS: tuple[tuple[float, int], ...] = ((0.1, 10), (0.4, 4), (2.0, 0))  # seconds and batches after which one ends
KEPT_WINDOWS = 60  # over which throughputs are estimated: 6 s of the shortest windows, 2 min of the longest

# Trials of another number of slots. Each that fails makes the next pause twice as long.
FULL_FRAC = 0.5  # of a window in which all slots are busy, from which on a trial may begin; it ends below half of that
TRIAL_WINDOWS = 6  # of a trial: three with the number that is tried, in turn with three as before
FIRST_PAUSE_S = 1.0  # after the first trial that fails
LONGEST_PAUSE_S = 60.0  # in the end: windows with the other number are 2 % of the time
OVERLOADED_S = 2.0  # with all slots busy, after which trials downwards begin

# Reversals: a change against the last one. Each makes the next one wait longer.
FIRST_HOLD_S = 2.0  # between a change and the first one back; twice as long after each
LONGEST_HOLD_S = 600.0

# Leaving the estimate: older windows are forgotten where so many windows in a row differ from it by more than chance.
LEFT_FRAC = 0.15  # the relative difference that counts at least
LEFT_ERRORS = 4.0  # and the difference in multiples of the usual scatter of windows
LEFT_WINDOWS = 2  # in a row, of one number of slots and to one side
SCATTER_WEIGHT = 0.1  # of one window in the running mean of that scatter
KNOWN_FRAC = 0.8  # of the batch time of a window, at numbers that are known, so that it is compared with the estimate
TINY_S = 1e-9  # of profiled work, as a window without any has no logarithm


class TuningReason(StrEnum):
    """Why slots changed."""

    FEWER_CARRY_AS_MUCH = "fewer carry as much"
    MORE_CARRY_MORE = "more carry more"


@dataclass(frozen=True, slots=True)
class SlotChange:
    """The device runs batches in this number of slots from ``at_s`` on."""

    at_s: float
    slots: int
    reason: str


@dataclass(slots=True)
class SlotTrial:
    """A number of slots that is tried in every second window."""

    slots: int
    windows_left: int = TRIAL_WINDOWS

    @property
    def is_on(self) -> bool:
        """Whether the present window has the tried number."""
        return self.windows_left % 2 == 0


class SlotTuner:
    """Decides for one device how many of its ``max_slots`` run batches: all at first.

    The driver calls `began` and `ended` for each batch, and `look` several times a second. The answer of `look` holds
    until the next call. ``settled`` is the number apart from a trial.
    """

    def __init__(self, max_slots: int, now_s: float) -> None:
        self.max_slots = self.settled = max_slots
        self.bins = SlotBins(max_slots, now_s)
        self.windows: deque[SlotWindow] = deque(maxlen=KEPT_WINDOWS)
        self.estimate: Throughputs | None = None
        self.trial: SlotTrial | None = None
        self.changes: deque[SlotChange] = deque(maxlen=20)
        self.changed = self.trials = self.begun_anew = 0
        self.full_frac = 0.0  # of the last window
        self._pause_s = {1: 0.0, -1: 0.0}
        self._tried_s = {1: now_s, -1: now_s}  # the end of the last trial, up or down
        self._tries_far = {1: True, -1: True}  # twice as many, half as many
        self._full_since_s = math.inf
        self._patience_s = 0.0  # of busy slots, before smaller numbers are tried
        self._hold_s, self._last_step, self._changed_s = FIRST_HOLD_S, 0, -math.inf
        self._misses: dict[int, list[tuple[float, SlotWindow]]] = {}  # by slots: the last that left the estimate
        self._scatter = 0.0  # of windows about the estimate, a running mean of squares

    def began(self, now_s: float) -> Exposure:
        """Record the begin of a batch. The answer is for `ended`."""
        return self.bins.began(now_s)

    def ended(self, exposure: Exposure, work_s: float | None, now_s: float) -> None:
        """Record the end of a batch that takes ``work_s`` by the profile; None: it failed."""
        self.bins.ended(exposure, work_s, now_s)

    def lost(self, now_s: float) -> None:
        """The device is lost with all that runs."""
        self.bins.lost(now_s)
        self.begin_anew(now_s)

    @property
    def slots(self) -> int:
        """The number of slots that run batches now."""
        return self.trial.slots if self.trial is not None and self.trial.is_on else self.settled

    @property
    def knee(self) -> int | None:
        """The knee among the known numbers; None while no number is known."""
        if self.estimate is None or not (levels := self.estimate.levels):
            return None
        return levels[knee_place([self.estimate.of(level) for level in levels])]

    def begin_anew(self, now_s: float) -> None:
        """Forget all windows, pauses and holds: something outside has changed. The number of slots stays."""
        self.windows.clear()
        self.trial = None
        self._restart(now_s)
        self._hold_s, self._last_step = FIRST_HOLD_S, 0

    def is_due(self, now_s: float) -> bool:
        """Whether the present window is long enough for `look`."""
        lasted_s, batches = self.bins.window_s(now_s), self.bins.batches
        return any(lasted_s >= min_s and batches >= min_batches for min_s, min_batches in WINDOWS)

    def look(self, now_s: float) -> int:
        """The number of slots from now on."""
        if not self.is_due(now_s):
            return self.slots
        window = self.bins.window(self.slots, now_s)
        self.full_frac = window.full_frac(window.slots)
        self._full_since_s = min(self._full_since_s, now_s) if self.full_frac >= FULL_FRAC else math.inf
        if not window.batches:
            self.trial = None  # nobody waits for more
            return self.slots
        self.windows.append(window)
        if (since := self._left_since(window)) is not None:
            while self.windows[0] is not since:
                self.windows.popleft()
            self._restart(now_s)
        self.estimate = throughputs(self.windows)
        if self.trial is not None:
            self.trial.windows_left -= 1
        if not self._change(now_s):
            self._try(now_s)
        return self.slots

    # --- changes

    def _change(self, now_s: float) -> bool:
        """Settle on another number that is surely better; a reversal of the last change waits for its hold."""
        target = self._better()
        if target is None:
            return False
        step = 1 if target > self.settled else -1
        is_reversal = self._last_step == -step
        if is_reversal and now_s - self._changed_s < self._hold_s:
            return False
        if is_reversal:
            self._hold_s = min(2 * self._hold_s, LONGEST_HOLD_S)
        reason = TuningReason.MORE_CARRY_MORE if step > 0 else TuningReason.FEWER_CARRY_AS_MUCH
        self.settled = target
        self.changes.append(SlotChange(now_s, target, reason.value))
        self.changed += 1
        self.trial, self._last_step, self._changed_s = None, step, now_s
        self._pause_s = {step: 0.0, -step: FIRST_PAUSE_S}  # one more step the same way may be as good
        self._tried_s = {1: now_s, -1: now_s}
        self._tries_far[-step] = False  # it comes from there
        return True

    def _better(self) -> int | None:
        """A larger number that surely carries more, or the smallest that surely carries as much; None without one."""
        known = self.estimate
        if known is None or self.settled not in known.levels:
            return None
        least = {n: known.at_least(n, self.settled) for n in known.levels}
        up = [n for n in known.levels if n > self.settled and least[n] >= 1 + TOLERANCE_FRAC]
        if up:
            return up[0]
        down = [n for n in known.levels if n < self.settled and least[n] >= 1 - TOLERANCE_FRAC]
        best = max(map(known.of, down), default=0.0)
        return next((n for n in down if known.of(n) >= (1 - TOLERANCE_FRAC) * best), None)

    # --- trials

    def _try(self, now_s: float) -> None:
        """Continue the trial, end it, or begin one if all slots are busy."""
        if self.trial is not None:
            if self.trial.windows_left <= 0 or self.full_frac < FULL_FRAC / 2 or self._is_futile(self.trial):
                self._give_up(self.trial, now_s)
            return
        if self.full_frac < FULL_FRAC:
            return
        for step, tried in ((1, self._more()), (-1, self._fewer())):
            if 1 <= tried <= self.max_slots and tried != self.settled and self._is_time(step, tried, now_s):
                self.trial, self._patience_s = SlotTrial(tried), OVERLOADED_S
                self.trials += 1
                return

    def _is_futile(self, trial: SlotTrial) -> bool:
        """Whether the tried number is surely no better, and its last window agreed with the estimate."""
        known = self.estimate
        if known is None or trial.is_on or trial.slots in self._misses or trial.slots not in known.levels:
            return False
        least = 1 + TOLERANCE_FRAC if trial.slots > self.settled else 1 - TOLERANCE_FRAC
        return self.settled in known.levels and known.at_most(trial.slots, self.settled) < least

    def _more(self) -> int:
        """The larger number to try: twice as many where nothing is known, then one more."""
        return min(2 * self.settled, self.max_slots) if self._tries_far[1] else self.settled + 1

    def _fewer(self) -> int:
        """The smaller number to try: half as many, then one less, and so on."""
        return self.settled // 2 if self._tries_far[-1] else self.settled - 1

    def _is_time(self, step: int, tried: int, now_s: float) -> bool:
        """Whether a trial may begin; downwards only for unknown numbers of a device that is always busy."""
        is_overloaded = now_s - self._full_since_s >= self._patience_s
        is_known = self.estimate is not None and tried in self.estimate.levels
        return now_s >= self._tried_s[step] + self._pause_s[step] and (step > 0 or (not is_known and is_overloaded))

    def _give_up(self, trial: SlotTrial, now_s: float) -> None:
        """End a trial that has shown no better number; the next pause is longer."""
        step = 1 if trial.slots > self.settled else -1
        self.trial = None
        self._tried_s[step] = now_s
        self._pause_s[step] = min(2 * max(self._pause_s[step], FIRST_PAUSE_S / 2), LONGEST_PAUSE_S)
        self._tries_far[step] = step < 0 and not self._tries_far[step]

    # --- the estimate

    def _left_since(self, window: SlotWindow) -> SlotWindow | None:
        """The first of the last windows that all did more than estimated, or all less, by more than chance."""
        known = self.estimate
        expected_s = self._expected_s(known, window) if known is not None else 0.0
        miss = math.log(max(window.work_s, TINY_S) / expected_s) if expected_s > 0 else 0.0
        if abs(miss) <= max(LEFT_FRAC, LEFT_ERRORS * math.sqrt(self._scatter)):
            self._scatter += SCATTER_WEIGHT * (miss * miss - self._scatter)
            self._misses.pop(window.slots, None)
            return None
        before = self._misses.get(window.slots, ())
        alike = [(other, each) for other, each in before if (other > 0) == (miss > 0) and each in self.windows]
        self._misses[window.slots] = [*alike, (miss, window)]
        return alike[0][1] if len(alike) + 1 >= LEFT_WINDOWS else None

    def _expected_s(self, known: Throughputs, window: SlotWindow) -> float:
        """The profiled work of a window's batches by the estimate, in seconds; 0 if too much of it is unknown."""
        batch_s = window.batch_seconds
        expected_s = sum(float(batch_s[n - 1]) * known.of(n) / n for n in known.levels)
        known_s = sum(float(batch_s[n - 1]) for n in known.levels)
        total_s = float(batch_s.sum())
        return expected_s * total_s / known_s if known_s >= KNOWN_FRAC * total_s else 0.0

    def _restart(self, now_s: float) -> None:
        """Estimate anew from the remaining windows; trials need not wait."""
        self._pause_s, self._tried_s = {1: 0.0, -1: 0.0}, {1: now_s, -1: now_s}
        self._tries_far = {1: True, -1: True}
        self.estimate = None
        self._misses.clear()
        self._scatter = self._patience_s = 0.0
        self.begun_anew += 1
