"""How near `study peak` comes to peaks that are known: 100 seeds each, none of them used while it was built.

* One server of fixed batch time without batching (M/D/1), whose waiting times Erlang's formula gives exactly.
* A simulated device that batches, whose peak is known from simulating millions of requests at each of some rates.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np

from benchmarks.study.parts import Found
from benchmarks.tables import Aim
from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.domain.base import FORMAT, MadeBy
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import BackendInfo, Point, Profile, VariantProfile
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.studies.peak.carriers import RequestCarrier, measured_peak, simulated
from proteus_cli.studies.peak.drafts import lone_plan
from proteus_cli.studies.peak.fit import Offer, duration_s, stretch_of
from proteus_cli.studies.results import Peak, PeakRules, Stretch

SEEDS, FEW, FIRST_SEED = 100, 3, 2_026_500
WITHIN = 0.03
LEAST = 95.0
LONG_REQUESTS, LONG_PARTS, LONG_RATES = 1_000_000, 10, (0.94, 0.97, 1.0, 1.03, 1.06)


@dataclass(frozen=True, slots=True)
class OneServer:
    """M/D/1: batches of one row that take ``service_s``, in the order of arrival; nothing is refused or dropped."""

    service_s: float
    slo_s: float
    is_real_time: bool = False

    def carry(self, offer: Offer, rng: np.random.Generator) -> Stretch:
        length_s = duration_s(offer, self.slo_s)
        arrival_s = np.sort(rng.uniform(0.0, length_s, rng.poisson(offer.rate_qps * length_s)))
        steps_s = np.concatenate(([0.0], np.cumsum(self.service_s - np.diff(arrival_s))))[: len(arrival_s)]
        waited_s = steps_s - np.minimum.accumulate(np.minimum(steps_s, 0.0))
        is_late = (waited_s + self.service_s > self.slo_s).astype(np.float64)
        return stretch_of(offer, self.slo_s, arrival_s, is_late)

    def peak_qps(self, allowed_frac: float) -> float:
        """Where the part of requests that are late is what is allowed."""
        low, high = 0.01 / self.service_s, (1 - 1e-6) / self.service_s
        while high / low > 1 + 1e-6:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._late_frac(middle) <= allowed_frac else (low, middle)
        return low

    def _late_frac(self, rate_qps: float) -> float:
        """Erlang's formula; its terms alternate and are large, so it takes many digits."""
        with localcontext() as context:
            context.prec = 80
            rate, service = Decimal(repr(rate_qps)), Decimal(repr(self.service_s))
            wait = Decimal(repr(self.slo_s)) - service
            total, factorial = Decimal(0), Decimal(1)
            for n in range(int(wait / service) + 1):
                factorial *= max(n, 1)
                x = rate * (wait - n * service)
                total += (-x) ** n / factorial * x.exp() if n else x.exp()
            return float(1 - (1 - rate * service) * total)


def batching_device(slo_ms: int = 100, first_s: float = 0.004, row_s: float = 0.001) -> RequestCarrier:
    """A device whose batches take so long for the first row and for each more."""
    batches = (1, 2, 4, 8, 16, 32, 64)
    points = tuple(_point(batch, first_s + row_s * (batch - 1)) for batch in batches)
    variant = VariantProfile("f", "f-a", 0.9, None, "", None, 0.0, 0.0, 0, points)
    device = Device("cpu0", "cpu", "cpu", "made up", 0)
    made = MadeBy("0", "bench", "2026-01-01T00:00:00+00:00")
    profile = Profile(FORMAT, made, device, "cpu0", BackendInfo("none", {}), (variant,))
    family = Family("f", f"{slo_ms}ms", (Variant("f-a", 0.9),))
    catalog = Catalog(FORMAT, (family,))
    plan = lone_plan(catalog, family, variant, profile, {})
    return RequestCarrier(
        simulated(plan, catalog, {"cpu0": profile}, GreedyBatcher(), Conditions()),
        {"f": 1.0},
        slo_ms / 1e3,
        is_real_time=False,
    )


def _point(batch: int, took_s: float) -> Point:
    return Point(batch, 10, took_s, took_s, took_s, took_s, took_s, batch / took_s)


def long_peak_qps(device: RequestCarrier, allowed_frac: float, near_qps: float, requests: int) -> float:
    """Where a line between neighbouring rates, of the logarithms of what violates there, crosses what is allowed."""
    rates = [near_qps * factor for factor in LONG_RATES]
    odds = [math.log(_violating_frac(device, rate, requests, place)) for place, rate in enumerate(rates)]
    return float(math.exp(np.interp(math.log(allowed_frac), odds, np.log(rates))))


def _violating_frac(device: RequestCarrier, rate_qps: float, requests: int, seed: int) -> float:
    """In parts, as the simulator keeps a record of each request."""
    rngs, part = np.random.default_rng(seed).spawn(LONG_PARTS), requests // LONG_PARTS
    found = [device.carry(Offer(rate_qps, part), rng) for rng in rngs]
    return max(sum(each.violations for each in found), 0.5) / sum(each.requests for each in found)


@dataclass(frozen=True, slots=True)
class Case:
    """Something whose peak is known, and where the search begins."""

    name: str
    carrier: OneServer | RequestCarrier
    allowed_frac: float
    truth_qps: float
    first_qps: float

    def found(self, seed: int) -> Peak:
        rules = PeakRules(self.allowed_frac)
        return measured_peak(self.carrier, rules, self.first_qps, math.inf, seed, lambda _now, _done: None)


def measure(is_quick: bool) -> Found:  # noqa: FBT001 - a part of the benchmark
    """The errors of many seeds, of each case."""
    seeds = range(FIRST_SEED, FIRST_SEED + (FEW if is_quick else SEEDS))
    lines, aims = [], []
    for case in cases(20_000 if is_quick else LONG_REQUESTS):
        peaks = [case.found(seed) for seed in seeds]
        errors = np.array([peak.rate_qps / case.truth_qps - 1 for peak in peaks])
        held = np.mean([peak.low_qps <= case.truth_qps <= (peak.high_qps or math.inf) for peak in peaks])
        requests = np.mean([peak.requests for peak in peaks])
        lines.append(
            f"{case.name}: {case.truth_qps:.1f} qps; errors {100 * errors.mean():+.2f} % in the mean, "
            f"{100 * errors.std():.2f} % standard deviation, {100 * abs(errors).max():.2f} % at most; "
            f"{100 * held:.0f} % of the intervals hold it; {requests:,.0f} requests each"
        )
        near = 100 * float(np.mean(abs(errors) <= WITHIN))
        aims.append(Aim(f"{case.name}, within 3 %", near, LEAST, "% of seeds", is_most=False))
    return Found(lines, aims)


def cases(long_requests: int) -> Iterator[Case]:
    """The cases; the truth of the simulated device takes five times so many requests."""
    for slo_s, allowed_frac in ((0.05, 0.01), (0.2, 0.01), (0.05, 0.001)):
        server = OneServer(0.01, slo_s)
        name = f"M/D/1 of 10 ms, SLO {1e3 * slo_s:g} ms, p{100 * (1 - allowed_frac):g}"
        yield Case(name, server, allowed_frac, server.peak_qps(allowed_frac), 20.0)
    device, allowed_frac = batching_device(), 0.01
    near_qps = Case("", device, allowed_frac, 1.0, 300.0).found(0).rate_qps
    truth_qps = long_peak_qps(device, allowed_frac, near_qps, long_requests)
    yield Case("simulated device, SLO 100 ms, p99", device, allowed_frac, truth_qps, 300.0)
