"""Whether two runs of `study peak` agree on a device whose speed drifts, in as much time as a user gives.

The device batches, greedily, and drops what would be late; its speed is a random walk that is pulled back to 1
(Ornstein-Uhlenbeck). Two runs follow one another on the same walk, in simulated time. No search can agree better than
the mean speeds of the two spans of time do, which stand beside.
"""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.study.parts import Found
from benchmarks.tables import Aim
from proteus_cli.arrays import Floats
from proteus_cli.domain.studies.peak import PeakRules, Stretch
from proteus_cli.studies.peak.measuring import measured_peak
from proteus_cli.studies.peak.search import Offer
from proteus_cli.studies.peak.stretches import duration_s, stretch_of

PAIRS, FEW, FIRST_SEED = 40, 2, 2_026_700
EACH_S, STEP_S, PULLED_BACK_S = 180.0, 0.25, 20.0
DEVIATIONS = (0.0, 0.03, 0.1)
MOST_PERCENT = 5.0
STEADY, DRIFTING = DEVIATIONS[:2]
FIRST_ROW_S, ROW_S, LARGEST, SLO_S = 0.002, 0.0016, 16, 0.1


@dataclass(slots=True)
class DriftingDevice:
    """A carrier; ``speed`` is by steps of `STEP_S`, and ``now_s`` is where on it the device is."""

    speed: Floats
    now_s: float = 0.0
    slo_s: float = SLO_S
    is_real_time: bool = True

    @classmethod
    def walking(cls, deviation: float, rng: np.random.Generator) -> "DriftingDevice":
        """A speed whose logarithm has this standard deviation, for two runs."""
        keeps = math.exp(-STEP_S / PULLED_BACK_S)
        pushes = rng.normal(0.0, deviation * math.sqrt(1 - keeps**2), int(3 * EACH_S / STEP_S)).tolist()
        log_speed = [rng.normal(0.0, deviation)]
        for push in pushes:
            log_speed.append(keeps * log_speed[-1] + push)
        return cls(np.exp(log_speed))

    def carry(self, offer: Offer, rng: np.random.Generator) -> Stretch:
        length_s = duration_s(offer, self.slo_s)
        arrival_s = np.sort(rng.uniform(0.0, length_s, rng.poisson(offer.rate_qps * length_s)))
        stretch = stretch_of(offer, self.slo_s, arrival_s, self._missed(arrival_s.tolist()))
        self.now_s += length_s
        return stretch

    def _missed(self, arrival_s: list[float]) -> Floats:
        """1 for each request that was late or dropped."""
        missed, at, free_s = np.zeros(len(arrival_s)), 0, 0.0
        while at < len(arrival_s):
            start_s = max(free_s, arrival_s[at])
            speed = float(self.speed[int((self.now_s + start_s) / STEP_S)])
            if arrival_s[at] + self.slo_s < start_s + FIRST_ROW_S / speed:
                missed[at], at = 1.0, at + 1
                continue
            end = at + 1
            while end < len(arrival_s) and end - at < LARGEST and arrival_s[end] <= start_s:
                end += 1
            free_s = start_s + (FIRST_ROW_S + ROW_S * (end - at - 1)) / speed
            missed[at:end] = free_s - np.array(arrival_s[at:end]) > self.slo_s
            at = end
        return missed


def measure(is_quick: bool) -> Found:  # noqa: FBT001 - a part of the benchmark
    """How far apart pairs of runs are, by how much the speed drifts."""
    pairs, lines, aims = FEW if is_quick else PAIRS, [], []
    for deviation in DEVIATIONS:
        apart, speeds_apart = (100 * abs(np.log(each)) for each in _ratios(deviation, pairs))
        lines.append(
            f"speed ±{100 * deviation:g} %: two runs of {EACH_S:g} s apart {_spread(apart)}; "
            f"their mean speeds {_spread(speeds_apart)}"
        )
        if deviation == STEADY:
            aims.append(_aim("steady speed, nine of ten pairs apart", float(np.quantile(apart, 0.9))))
        if deviation == DRIFTING:
            aims.append(_aim(f"speed ±{100 * deviation:g} %, pairs apart in the median", float(np.median(apart))))
    return Found(lines, aims)


def _ratios(deviation: float, pairs: int) -> Floats:
    """Of the peaks of each pair, and of the speeds meanwhile."""
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + pairs):
        device = DriftingDevice.walking(deviation, np.random.default_rng(seed))
        runs = [_run(device, 2 * seed + number) for number in range(2)]
        found.append([first / second for first, second in zip(*runs, strict=True)])
    return np.array(found).T


def _run(device: DriftingDevice, seed: int) -> tuple[float, float]:
    """The peak, and the mean speed meanwhile."""
    begun_s = device.now_s
    peak = measured_peak(
        device, PeakRules(0.01), 300.0, EACH_S, seed, lambda _now, _done: None, now_s=lambda: device.now_s
    )
    log_speed = np.log(device.speed[int(begun_s / STEP_S) : int(device.now_s / STEP_S)])
    return peak.rate_qps, math.exp(float(log_speed.mean()))


def _aim(name: str, percent: float) -> Aim:
    return Aim(name, percent, MOST_PERCENT, "%", is_most=True)


def _spread(percent: Floats) -> str:
    return f"by {np.median(percent):.1f} % in the median, {np.quantile(percent, 0.9):.1f} % in nine of ten"
