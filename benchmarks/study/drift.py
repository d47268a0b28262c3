"""Whether two runs of `study peak` agree on a device whose speed drifts, in as much time as a user gives.

The device batches, greedily, and drops what would be late; its speed is a random walk that is pulled back to 1
(Ornstein-Uhlenbeck). Two runs follow one another on the same walk, in simulated time. No search can agree better than
the mean speeds of the two spans of time do, which stand beside. Runs may also agree on something wrong: the mean of
all peaks is compared with the peak of a walk that is much longer, at which slow moments make most of the misses.
"""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.study.parts import Found
from benchmarks.tables import Aim
from proteus_cli.arrays import Floats
from proteus_cli.studies.peak.carriers import measured_peak
from proteus_cli.studies.peak.fit import Offer, duration_s, stretch_of
from proteus_cli.studies.results import PeakRules, Stretch

PAIRS, FEW, FIRST_SEED = 40, 2, 2_026_700
EACH_S, STEP_S, PULLED_BACK_S = 180.0, 0.25, 20.0
DEVIATIONS = (0.0, 0.03, 0.1)
MAX_APART_PERCENT, MAX_OFF_PERCENT = 5.0, 2.0
LONG_S, LONG_QUICK_S, LONG_FACTORS = 4_000.0, 200.0, (0.9, 0.95, 0.98, 1.0, 1.01, 1.02)
STEADY, DRIFTING = DEVIATIONS[:2]
FIRST_ROW_S, ROW_S, LARGEST, SLO_S = 0.002, 0.0016, 16, 0.1
ALLOWED_FRAC = 0.01


@dataclass(slots=True)
class DriftingDevice:
    """A carrier; ``speed`` is by steps of `STEP_S`, and ``now_s`` is where on it the device is."""

    speed: Floats
    now_s: float = 0.0
    slo_s: float = SLO_S
    is_real_time: bool = True

    @classmethod
    def walking(cls, deviation: float, rng: np.random.Generator, lasts_s: float = 3 * EACH_S) -> "DriftingDevice":
        """A speed whose logarithm has this standard deviation, by default for two runs."""
        keeps = math.exp(-STEP_S / PULLED_BACK_S)
        pushes = rng.normal(0.0, deviation * math.sqrt(1 - keeps**2), int(lasts_s / STEP_S)).tolist()
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
    """How far apart pairs of runs are, and how far from the peak in the long run, by how much the speed drifts."""
    pairs, lines, aims = FEW if is_quick else PAIRS, [], []
    for deviation in DEVIATIONS:
        peaks, speeds = _runs(deviation, pairs)
        apart, speeds_apart = _apart_percent(peaks), _apart_percent(speeds)
        mean_qps = float(np.exp(np.log(peaks).mean()))
        long_qps = long_peak_qps(deviation, mean_qps, LONG_QUICK_S if is_quick else LONG_S)
        off_percent = 100 * (mean_qps / long_qps - 1)
        lines.append(
            f"speed ±{100 * deviation:g} %: two runs of {EACH_S:g} s apart {_spread(apart)}; their mean speeds "
            f"{_spread(speeds_apart)}; "
            f"{mean_qps:.0f} qps in the mean, {long_qps:.0f} in the long run: {off_percent:+.1f} %"
        )
        if deviation in {STEADY, DRIFTING}:
            aims += _aims(deviation, float(np.quantile(apart, 0.9)), abs(off_percent))
    return Found(lines, aims)


def long_peak_qps(deviation: float, near_qps: float, lasts_s: float) -> float:
    """Where a long walk misses what is allowed: a line between neighbouring rates, of logarithms."""
    device = DriftingDevice.walking(deviation, np.random.default_rng(FIRST_SEED), 2 * lasts_s)
    rates, missed = [near_qps * factor for factor in LONG_FACTORS], list[float]()
    for rate_qps in rates:
        device.now_s = 0.0
        stretch = device.carry(Offer(rate_qps, int(lasts_s * rate_qps)), np.random.default_rng(FIRST_SEED))
        missed.append(math.log(max(stretch.violations, 0.5) / stretch.requests))
    return math.exp(float(np.interp(math.log(ALLOWED_FRAC), missed, np.log(rates))))


def _runs(deviation: float, pairs: int) -> tuple[Floats, Floats]:
    """Peaks, and mean speeds meanwhile, of pairs of runs."""
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + pairs):
        device = DriftingDevice.walking(deviation, np.random.default_rng(seed))
        found.append([_run(device, 2 * seed + number) for number in range(2)])
    both = np.array(found)
    return both[:, :, 0], both[:, :, 1]


def _apart_percent(pairs: Floats) -> Floats:
    found: Floats = 100 * np.abs(np.log(pairs[:, 0] / pairs[:, 1]))
    return found


def _run(device: DriftingDevice, seed: int) -> tuple[float, float]:
    """The peak, and the mean speed meanwhile."""
    begun_s = device.now_s
    peak = measured_peak(
        device, PeakRules(ALLOWED_FRAC), 300.0, EACH_S, seed, lambda _now, _done: None, now_s=lambda: device.now_s
    )
    log_speed = np.log(device.speed[int(begun_s / STEP_S) : int(device.now_s / STEP_S)])
    return peak.rate_qps, math.exp(float(log_speed.mean()))


def _aims(deviation: float, apart_percent: float, off_percent: float) -> list[Aim]:
    what = f"speed ±{100 * deviation:g} %"
    return [
        Aim(f"{what}, nine of ten pairs apart", apart_percent, MAX_APART_PERCENT, "%", is_most=True),
        Aim(f"{what}, mean from the long run", off_percent, MAX_OFF_PERCENT, "%", is_most=True),
    ]


def _spread(percent: Floats) -> str:
    return f"by {np.median(percent):.1f} % in the median, {np.quantile(percent, 0.9):.1f} % in nine of ten"
