"""The search finds a known peak, says how sure it is, and ends; it needs no clock and no load."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
import pytest

from proteus_cli.errors import EngineError
from proteus_cli.studies.peak.carriers import fitted, measured_peak
from proteus_cli.studies.peak.fit import (
    WINDOWS,
    Offer,
    clump,
    crossing,
    duration_s,
    stretch_of,
    verdict,
)
from proteus_cli.studies.peak.search import CONFIRMED, PeakSearch
from proteus_cli.studies.results import Peak, PeakRules, Stretch

Violations = Callable[[float], float]
P99 = PeakRules(0.01)


@dataclass(frozen=True, slots=True)
class OneServer:
    """An M/D/1 queue: batches of one row that take ``service_s``, in the order of arrival; none is dropped."""

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
        """The rate at which the allowed part of the requests is late."""
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


def searched(violations: Violations, rules: PeakRules = P99, first_qps: float = 10.0, seed: int = 1) -> Peak:
    """The peak of something that violates so much at a rate, each request by itself."""
    search, rng = PeakSearch(rules, first_qps), np.random.default_rng(seed)
    while (offer := search.next()) is not None:
        counts = rng.binomial(offer.requests // WINDOWS, violations(offer.rate_qps), WINDOWS)
        requests = WINDOWS * (offer.requests // WINDOWS)
        mean = counts.mean()
        scatter = float(((counts - mean) ** 2).sum() / mean) if mean else 0.0
        search.saw(Stretch(offer.rate_qps, requests, int(counts.sum()), scatter, WINDOWS))
    return search.found()


@pytest.mark.parametrize("steepness", [3.0, 12.0, 60.0])
@pytest.mark.parametrize("truth_qps", [0.003, 1.0, 400.0])
def test_a_peak_is_found_from_far_away_whatever_the_steepness(truth_qps: float, steepness: float) -> None:
    first_qps = min(20.0, 2 * truth_qps)
    peak = searched(lambda rate: min(1.0, 0.01 * (rate / truth_qps) ** steepness), first_qps=first_qps)
    assert peak.rate_qps == pytest.approx(truth_qps, rel=0.03)
    assert peak.is_precise
    assert peak.low_qps < peak.rate_qps < (peak.high_qps or 0)
    assert math.sqrt((peak.high_qps or math.inf) / peak.low_qps) - 1 <= P99.precision_frac


def test_a_search_says_that_all_is_done_no_earlier_than_it_ends() -> None:
    """The interval is narrow enough long before enough requests have confirmed it."""
    told: list[float] = []
    rules = PeakRules(0.05)
    measured_peak(OneServer(0.01, 0.05), rules, 20.0, math.inf, 1, lambda _doing, done_frac: told.append(done_frac))
    assert 1 / CONFIRMED < max(told) < 1.0


@pytest.mark.parametrize(("missed", "low_qps", "high_qps"), [(0, 0.0, None), (200, 0.0, 40.0)])
def test_a_search_that_ends_before_it_has_seen_a_rate_carried_guesses(
    missed: int, low_qps: float, high_qps: float | None
) -> None:
    """Too few requests to judge the first rate, or a first rate that is violated: a peak of 0 would be wrong."""
    search = PeakSearch(P99, 40.0)
    assert search.next() == Offer(40.0, 200)
    search.saw(Stretch(40.0, 200, missed, 0.0, WINDOWS))
    peak = search.found()
    assert 0 < peak.rate_qps <= 40.0
    assert (peak.low_qps, peak.high_qps, peak.is_precise) == (low_qps, high_qps, False)


def test_where_single_requests_are_late_there_is_no_peak() -> None:
    peak = searched(lambda _rate: 1.0)
    assert (peak.limit, peak.rate_qps, peak.is_precise) == ("none", 0.0, True)


def test_where_nothing_is_ever_late_the_generator_is_the_limit() -> None:
    peak = searched(lambda _rate: 0.0, PeakRules(0.01, most_qps=5000.0))
    assert (peak.limit, peak.low_qps, peak.high_qps) == ("generator", 5000.0, None)


def late_generator(lag_s: float) -> Peak:
    """The peak where requests of an SLO of 80 ms are sent so late above 100 qps, where a twentieth misses it."""
    search = PeakSearch(PeakRules(0.01, most_requests=60_000), 50.0, slo_s=0.08)
    while (offer := search.next()) is not None:
        is_over = offer.rate_qps > 100.0
        missed = offer.requests // 20 if is_over else 0
        search.saw(Stretch(offer.rate_qps, offer.requests, missed, 15.0, WINDOWS, lag_s if is_over else 0.001))
    return search.found()


def test_where_the_generator_is_late_at_the_rates_that_fail_that_is_no_peak() -> None:
    peak = late_generator(0.072)
    assert (peak.limit, peak.high_qps, peak.is_precise) == ("late_generator", None, False)
    assert 0 < peak.low_qps == peak.rate_qps < 100.0
    assert peak.lag_s == 0.072


def test_a_generator_that_is_late_by_a_small_part_of_the_slo_does_not_hide_the_peak() -> None:
    peak = late_generator(0.02)
    assert peak.limit == "slo"
    assert peak.low_qps < 100.0 < (peak.high_qps or 0)


def test_requests_are_bounded_and_what_is_known_then_is_said() -> None:
    rules = PeakRules(0.01, precision_frac=1e-4, most_requests=60_000)
    peak = searched(lambda rate: min(1.0, 0.01 * (rate / 50.0) ** 8), rules)
    assert not peak.is_precise
    assert peak.requests <= rules.most_requests
    assert peak.low_qps <= 50.0 <= (peak.high_qps or 0)


@pytest.mark.parametrize(("slo_s", "allowed_frac"), [(0.05, 0.05), (0.2, 0.01)])
def test_the_peak_of_a_queue_that_is_known_exactly_is_found(slo_s: float, allowed_frac: float) -> None:
    """Violations of a queue come in clumps. The tuning used other seeds."""
    server = OneServer(0.01, slo_s)
    truth_qps = server.peak_qps(allowed_frac)
    for seed in range(2):
        peak = measured_peak(server, PeakRules(allowed_frac), 20.0, math.inf, seed, lambda _now, _done: None)
        assert peak.rate_qps == pytest.approx(truth_qps, rel=0.04), seed
        assert peak.clump > 2


def test_clumps_count_as_fewer_requests() -> None:
    alone = Stretch(10.0, 1600, 16, 15.0, 16)
    clumped = Stretch(10.0, 1600, 16, 150.0, 16)
    assert (clump([alone]), clump([clumped])) == (1.0, 10.0)
    near_qps = crossing([alone] * 6, 0.01)
    assert crossing([clumped] * 6, 0.01).half_width_frac > 2 * near_qps.half_width_frac


def test_a_stretch_that_is_overloaded_counts_no_more_for_being_so_by_far() -> None:
    """As one at a moment at which the server was slow: it says that the rate is too high, and not by how much."""
    near = [Stretch(rate, 1000, missed, 16.0, 16) for rate, missed in ((96.0, 4), (98.0, 7), (102.0, 14), (104.0, 25))]
    at, far, farther = (
        crossing([*near, Stretch(100.0, 1000, 1000 * each // 100, 16.0, 16)], 0.01) for each in (8, 20, 90)
    )
    assert at == far == farther
    assert at.rate_qps < crossing(near, 0.01).rate_qps


def test_rare_slow_moments_are_part_of_the_peak() -> None:
    """4 % of the stretches miss 15 %, whatever the rate: that alone is 0.6 % of the requests, of the 1 % allowed."""
    stalls_frac, stalled_missed = 0.04, 0.15
    usual_frac = (0.01 - stalls_frac * stalled_missed) / (1 - stalls_frac)
    truth_qps = 100.0 * (usual_frac / 0.01) ** (1 / 30)

    def peak(seed: int) -> Peak:
        rng = np.random.default_rng(seed)

        def missed(rate_qps: float) -> float:
            return stalled_missed if rng.random() < stalls_frac else min(1.0, 0.01 * (rate_qps / 100.0) ** 30)

        return searched(missed, PeakRules(0.01, precision_frac=0.001, most_requests=400_000), 100.0, seed)

    peaks = [peak(seed) for seed in range(1, 7)]
    assert np.mean([each.rate_qps for each in peaks]) == pytest.approx(truth_qps, rel=0.01)
    assert sum(each.low_qps < truth_qps < (each.high_qps or 0) for each in peaks) >= 5


def test_next_to_the_peak_stretches_are_short_and_a_steady_drift_is_alike_on_both_sides() -> None:
    search = PeakSearch(P99, 100.0)
    offered = list[Offer]()
    while len(offered) < 16 and (offer := search.next()) is not None:
        offered.append(offer)
        violations = round(offer.requests * min(1.0, 0.01 * (offer.rate_qps / 100.0) ** 20))
        search.saw(Stretch(offer.rate_qps, offer.requests, violations, 15.0, WINDOWS))
    refining = offered[-8:]
    assert {each.requests for each in refining} == {4000}
    is_below = [each.rate_qps < 100.0 for each in refining]
    assert is_below == 2 * [True, False, False, True]


def test_no_stretch_takes_more_than_a_part_of_the_time() -> None:
    """A server may be slow for a while: it counts as little as any other while."""
    now_s, lasted_s = 0.0, list[float]()

    class Slow(OneServer):
        def carry(self, offer: Offer, rng: np.random.Generator) -> Stretch:
            nonlocal now_s
            lasted_s.append(duration_s(offer, self.slo_s))
            now_s += lasted_s[-1]
            return super().carry(offer, rng)

    measured_peak(
        Slow(0.01, 0.05, is_real_time=True), P99, 50.0, 400.0, 1, lambda _now, _done: None, now_s=lambda: now_s
    )
    assert 380.0 < now_s <= 400.0
    assert max(lasted_s) <= 20.0


@pytest.mark.parametrize(
    ("peak_qps", "rules", "allowed_s", "min_s"),
    [(20.0, P99, 20.0, 15.0), (100.0, P99, 60.0, 50.0), (800.0, PeakRules(0.001), 60.0, 50.0)],
)
def test_a_slow_server_is_asked_until_the_time_is_over(
    peak_qps: float, rules: PeakRules, allowed_s: float, min_s: float
) -> None:
    """A twentieth of the time has fewer requests than the probe asks for, and yet the time is used."""
    clock = Clock(peak_qps, rules.allowed_frac)
    peak = measured_peak(
        clock, rules, 0.7 * peak_qps, allowed_s, 1, lambda _now, _done: None, now_s=lambda: clock.now_s
    )
    assert min_s < clock.now_s <= allowed_s
    assert peak.low_qps < peak_qps < (peak.high_qps or math.inf)


@dataclass
class Clock:
    """A server that misses what is allowed at its peak, on a clock that stretches move on."""

    peak_qps: float
    allowed_frac: float
    slo_s: float = 0.1
    is_real_time: bool = True
    now_s: float = 0.0

    def carry(self, offer: Offer, rng: np.random.Generator) -> Stretch:
        self.now_s += duration_s(offer, self.slo_s)
        missed_frac = min(1.0, self.allowed_frac * (offer.rate_qps / self.peak_qps) ** 30)
        return Stretch(
            offer.rate_qps, offer.requests, int(rng.binomial(offer.requests, missed_frac)), WINDOWS - 1.0, WINDOWS
        )


def test_a_probe_that_misses_too_much_but_not_surely_gets_more_requests() -> None:
    """Where they decide nothing, the rate is near the peak; short stretches are no reason to decide earlier."""
    search, offered = PeakSearch(P99, 100.0), list[Offer]()
    for _ in range(13):
        offered.append(search.next() or Offer(0.0, 0))
        search.saw(Stretch(100.0, 100, 2, 60.0, WINDOWS))
    assert [each.rate_qps for each in offered[:12]] == [100.0] * 12
    assert [each.requests for each in offered[:4]] == [200, 200, 200, 300]
    assert offered[12].requests == 4000  # of a line fitted next to the peak


def test_a_rate_that_seems_to_be_carried_is_left_at_once_but_is_no_bound() -> None:
    search, offered = PeakSearch(P99, 50.0), list[float]()
    for _ in range(4):
        offered.append((search.next() or Offer(0.0, 0)).rate_qps)
        search.saw(Stretch(offered[-1], 200, 0, 0.0, WINDOWS))
    assert offered == [50.0, 100.0, 200.0, 400.0]
    assert search.found().low_qps == 0.0
    search.saw(Stretch(800.0, 1000, 0, 0.0, WINDOWS))
    assert search.found().low_qps == 800.0


def test_a_verdict_is_open_until_it_is_sure() -> None:
    few, many = Stretch(10.0, 100, 0, 0.0, 16), Stretch(10.0, 1000, 0, 0.0, 16)
    assert (verdict([few], 0.01), verdict([many], 0.01)) == ("open", "carried")
    assert verdict([Stretch(10.0, 100, 20, 15.0, 16)], 0.01) == "violated"
    assert verdict([Stretch(10.0, 100, 20, 15.0 * 50, 16)], 0.01) == "open"


def test_below_a_rate_that_is_shed_the_next_one_is_near_what_was_answered() -> None:
    """A server that answers 100 qps of whatever comes, and is asked for far too much at first."""
    search, offered = PeakSearch(P99, 100_000.0), list[float]()
    while len(offered) < 8 and (offer := search.next()) is not None:
        offered.append(offer.rate_qps)
        missed = round(offer.requests * max(0.0, 1 - 100.0 / offer.rate_qps))
        search.saw(Stretch(offer.rate_qps, offer.requests, missed, 15.0, WINDOWS))
    assert offered[1] == 25_000.0
    assert sum(rate > 150.0 for rate in offered) <= 6
    assert any(80.0 < rate < 100.0 for rate in offered)


def test_a_stretch_leaves_the_warm_up_out_and_counts_in_windows() -> None:
    offer, slo_s = Offer(100.0, 1000), 0.1
    arrival_s = np.arange(0.0, duration_s(offer, slo_s), 0.01)
    late = (arrival_s < 1.0).astype(np.float64)  # all of the warm-up, and nothing else
    stretch = stretch_of(offer, slo_s, arrival_s, late)
    assert (stretch.requests, stretch.violations, stretch.windows) == (1000, 0, WINDOWS)
    half = stretch_of(offer, slo_s, arrival_s, (arrival_s > 6.0).astype(np.float64))
    assert half.violations == pytest.approx(500, abs=1)
    assert half.scatter == pytest.approx(1000, rel=0.01)  # of each window all or nothing


def test_without_time_for_a_stretch_there_is_no_peak_and_it_says_so() -> None:
    with pytest.raises(EngineError, match="no time to offer any requests"):
        measured_peak(OneServer(0.01, 0.05), P99, 20.0, 0.0, 1, lambda _now, _done: None)


def test_a_stretch_is_cut_to_the_time_that_is_left() -> None:
    offer = Offer(100.0, 1000)
    assert fitted(offer, 0.1, 60.0) == offer
    cut = fitted(offer, 0.1, 5.0)
    assert cut is not None
    assert duration_s(cut, 0.1) <= 5.0
    assert fitted(offer, 0.1, 1.0) is None
