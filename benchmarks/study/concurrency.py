"""ConScale's case in kind, simulated: bursts while the number of GPUs of a host changes, and with it the knee of each.

Slots that are learned while serving, against each fixed number of them and against AIMD. Latencies are of all requests;
none is refused. All is in virtual time: figures do not depend on the machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.study.parts import Found
from benchmarks.study.shared_host import BATCH_S, MAX_BATCH, SLOTS, Chooser, Curve, SharedHost, p99_s
from benchmarks.tables import Aim
from proteus_cli.control.slot_tuner import Exposure, SlotTuner

SEEDS, FIRST_SEED = 5, 2_026_900  # none was used while the rules were made
GPUS = 4
SERVING = ((60.0, 1), (120.0, 2), (180.0, 4))  # from so many seconds on, so many GPUs; all four at first
UNTIL_S, QUICK_S = 240.0, 90.0
KNEES = {1: 4, 2: 3, 4: 2}
FALL = 0.4  # of what a batch alone does, for each batch at once beyond the knee
LOAD, BURST, PERIOD_S, BURST_S = 0.6, 1.5, 10.0, 2.5
NO_WORSE, BETTER = 5.0, 30.0


@dataclass(slots=True)
class Fixed:
    """Always so many slots."""

    slots: int

    def began(self, now_s: float) -> Exposure:
        return (now_s,)

    def ended(self, exposure: Exposure, work_s: float | None, now_s: float) -> None: ...
    def lost(self, now_s: float) -> None: ...
    def begin_anew(self, now_s: float) -> None: ...

    def look(self, now_s: float) -> int:
        del now_s
        return self.slots


@dataclass(slots=True)
class Aimd:
    """One slot more each time while ten batches take less than twice the shortest of late, else half as many."""

    slots: int = 1
    _stretch: list[float] = field(default_factory=list)
    _least: float = 1e9

    def began(self, now_s: float) -> Exposure:
        return (now_s,)

    def ended(self, exposure: Exposure, work_s: float | None, now_s: float) -> None:
        assert work_s is not None
        self._stretch.append((now_s - exposure[0]) / work_s)

    def lost(self, now_s: float) -> None:
        self.begin_anew(now_s)

    def begin_anew(self, now_s: float) -> None:
        del now_s
        self._stretch.clear()
        self._least = 1e9

    def look(self, now_s: float) -> int:
        del now_s
        if len(self._stretch) >= 10:
            mean = sum(self._stretch) / len(self._stretch)
            self._least = min(1.01 * self._least, mean)
            self.slots = max(1, self.slots // 2) if mean > 2 * self._least else min(self.slots + 1, SLOTS)
            self._stretch.clear()
        return self.slots


def curve(serving: int) -> Curve:
    """What a GPU does with 1 to 4 batches at once, where so many serve."""
    knee = KNEES[serving]
    return [min(n, knee) - FALL * max(n - knee, 0) for n in range(1, SLOTS + 1)]


def arrivals_s(rng: np.random.Generator, until_s: float) -> list[float]:
    """Poisson, with a burst every ten seconds; the mean follows what the GPUs that serve carry with the best slots."""
    found, now_s = list[float](), 0.0
    full_qps = MAX_BATCH / BATCH_S[MAX_BATCH]
    while now_s < until_s:
        number = next((gpus for from_s, gpus in reversed(SERVING) if from_s <= now_s), GPUS)
        of_now = BURST if now_s % PERIOD_S < BURST_S else (1 - BURST * BURST_S / PERIOD_S) / (1 - BURST_S / PERIOD_S)
        now_s += rng.exponential(1 / (LOAD * of_now * number * KNEES[number] * full_qps))
        found.append(now_s)
    return found


def latencies_s(choosers: Callable[[], Chooser], seed: int, until_s: float) -> Sequence[float]:
    """Of all requests."""
    host = SharedHost(GPUS, curve, choosers, np.random.default_rng(seed + 1))
    host.run(arrivals_s(np.random.default_rng(seed), until_s), [each for each in SERVING if each[0] < until_s])
    return host.latencies_s


def measure(quick: bool) -> Found:  # noqa: FBT001 - called as `Part`
    """The p99 of each way to choose slots, by seed."""
    ways: dict[str, Callable[[], Chooser]] = {f"{n} slots": lambda n=n: Fixed(n) for n in range(1, SLOTS + 1)}  # type: ignore[misc]
    ways |= {"AIMD": Aimd, "learned": lambda: SlotTuner(SLOTS, 0.0)}
    until_s = QUICK_S if quick else UNTIL_S
    lines, worse, better = ["| seed | " + " | ".join(f"{way}, p99 (s)" for way in ways) + " |"], [], []
    lines.append("|---|" + "---:|" * len(ways))
    for seed in range(FIRST_SEED, FIRST_SEED + (1 if quick else SEEDS)):
        found = {way: p99_s(latencies_s(choosers, seed, until_s)) for way, choosers in ways.items()}
        lines.append(f"| {seed} | " + " | ".join(f"{value:.2f}" for value in found.values()) + " |")
        fixed = [found[f"{n} slots"] for n in range(1, SLOTS + 1)]
        worse.append(100 * (found["learned"] / min(fixed) - 1))
        better.append(100 * (1 - found["learned"] / max(fixed)))
    return Found(
        ["simulated: the real controller in virtual time", *lines],
        [
            Aim("p99 above that of the best fixed number, worst seed", max(worse), NO_WORSE, "%", is_most=True),
            Aim("p99 below that of the worst fixed number, worst seed", min(better), BETTER, "%", is_most=False),
        ],
    )
