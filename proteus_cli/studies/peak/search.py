"""The search for the peak, as values: which rate to offer next, for how many requests. No clock, no load.

::

    search = PeakSearch(rules, first_qps=100.0)
    while (offer := search.next()) is not None:
        search.saw(carry(offer))        # a `Stretch`
    peak = search.found()
"""

import math
from collections.abc import Sequence

from msgspec.structs import replace

from proteus_cli.studies.peak.fit import Crossing, Offer, clump, crossing, verdict, violation_interval
from proteus_cli.studies.results import NARROW, Limit, Peak, PeakRules, Probe, Stretch

FAR_VIOLATIONS, FIRST_VIOLATIONS = 2.0, 8.0
"""A probe begins with as many requests as have so many violations where the rate is just carried. Before a rate is
violated they are few, as twice the rate soon tells."""
ENOUGH = 6.0
"""A probe that misses too much, and not surely, is near the peak once it has had so many times as many requests."""
RISE = 2.0
"""The next rate is so many times the last one, until the peak is bracketed. The bracket is halved down to `NARROW`."""
LOWEST_FALL, HIGHEST_FALL, OF_ANSWERED = 0.25, 0.87, 0.95
"""Below a rate that is violated, the next one is this part of what was answered in time: where too much comes, servers
that shed answer about what they can carry. It is at least, and at most, these parts of the rate."""
MIN_QPS, MIN_FRAC = 0.01, 1e-3
"""Where a lower rate violates, too, there is no peak; or one below this part of the first rate, where that is lower."""

REFINE_VIOLATIONS, REFINE_CLUMPS = 40.0, 2.0
"""A stretch has as many requests as have so many violations, and so many clumps of them, at the peak."""
FEWEST_STRETCHES = 10
"""Fewer do not tell how well a line fits."""
LOW_HIGH_HIGH_LOW = (True, False, False, True)
"""Whether stretches are below the peak, in turn: a speed that rises or falls meanwhile is the same on both sides."""
DIFFERENCE = 0.8
"""Of the logarithms of the odds, between the peak and the rates on either side: far enough to tell the steepness."""
NEAREST, FARTHEST, FIRST_AWAY = 0.012, 0.12, 0.04
"""How near to the peak, and how far from it, stretches are, as a part of the rate; and how far at first."""
WINDOW, MIN_WINDOW = 2.2, 0.06
"""Stretches that are so many times as far from the peak are no part of the fit, as the line is straight near it only.
What is as near as the second, a part of the rate, always is, so that it is not thrown away where the peak moves."""
LATE_FRAC = 0.5
"""A stretch that is sent later (p99) than this part of the SLO says more of the generator than of a server."""
CONFIRMED = 1.3
"""The interval stays narrow enough until there are so many times the requests: once may be by chance."""


class PeakSearch:
    """Decides what to offer next. ``first_qps`` is a guess of the peak, which need not be good.

    ``slo_s``: of requests whose generator may be late.
    """

    def __init__(self, rules: PeakRules, first_qps: float, slo_s: float = math.inf) -> None:
        self._rules, self._slo_s = rules, slo_s
        self._probe: list[Stretch] = []
        self._seen: list[Stretch] = []
        self._refining: list[Stretch] = []
        self._below_qps, self._above_qps = 0.0, math.inf
        self._rate_qps = min(first_qps, rules.most_qps)
        self._least_qps = min(MIN_QPS, MIN_FRAC * self._rate_qps)
        self._centre_qps: float | None = None
        self._fall = 1 / RISE
        self._away = FIRST_AWAY
        self._narrow_at: int | None = None  # requests near the peak when the interval became narrow enough
        self._is_known = False
        self._limit: Limit = "slo"

    def next(self) -> Offer | None:
        """What to offer next; None where enough is known, or no more is allowed."""
        left = self._rules.most_requests - sum(each.requests for each in self._seen)
        if self._limit != "slo" or left <= 0 or self._is_known:
            return None
        offer = self._bracketing_offer() if self._centre_qps is None else self._refining_offer()
        return Offer(offer.rate_qps, min(offer.requests, left))

    def saw(self, stretch: Stretch) -> None:
        """A stretch of what was offered."""
        self._seen.append(stretch)
        if self._centre_qps is None:
            self._probe.append(stretch)
            self._judge()
        else:
            self._refining.append(stretch)
            self._learn()

    def found(self) -> Peak:
        """The peak as it is known now."""
        if self._limit == "generator":
            return self._peak(self._below_qps, self._below_qps, math.inf, None, is_precise=False)
        peak = self._within_slo()
        if not self._is_generator_late():
            return peak
        return replace(peak, rate_qps=peak.low_qps, high_qps=None, limit="late_generator", is_precise=False)

    @property
    def done_frac(self) -> float:
        """About how much of the search is done, while it goes on: never all of it."""
        if self._centre_qps is None:
            return 0.1 * (self._below_qps > 0) + 0.1 * (self._above_qps < math.inf)
        at = self._crossing()
        width = at.half_width_frac if at is not None else math.inf
        requests_frac = (self._rules.precision_frac / width) ** 2 / CONFIRMED if width > 0 else 1.0
        return max(0.3, min(0.99, requests_frac))

    # --- the bracket

    def _bracketing_offer(self) -> Offer:
        """As many requests as the probe has had so far, at first a few."""
        return Offer(self._rate_qps, max(self._first_requests, sum(each.requests for each in self._probe)))

    @property
    def _first_requests(self) -> int:
        violations = FAR_VIOLATIONS if self._above_qps == math.inf else FIRST_VIOLATIONS
        return math.ceil(violations / self._rules.allowed_frac)

    def _judge(self) -> None:
        """Take the next rate where the probe has said something, or has had its looks.

        A rate that seems to be carried is left after its first requests: a wrong guess costs a probe of a higher rate.
        At the highest rate it has to be sure.
        """
        requests = sum(each.requests for each in self._probe)
        violations = sum(each.violations for each in self._probe)
        said = verdict(self._probe, self._rules.allowed_frac)
        seems_carried = violations <= self._rules.allowed_frac * requests and self._rate_qps < self._rules.most_qps
        if said == "violated":
            self._above_qps = min(self._above_qps, self._rate_qps)
            self._fall = min(max(OF_ANSWERED * (1 - violations / requests), LOWEST_FALL), HIGHEST_FALL)
        elif said == "carried" or seems_carried:
            self._below_qps = max(self._below_qps, self._rate_qps)
        else:
            if requests >= ENOUGH * self._first_requests:
                self._centre_qps = self._rate_qps
            return
        self._probe = []
        self._take_next_rate()

    def _take_next_rate(self) -> None:
        below, above = self._below_qps, self._above_qps
        if above <= self._least_qps:
            self._limit = "none"
        elif below >= self._rules.most_qps:
            self._limit = "generator"
        elif above == math.inf:
            self._rate_qps = min(RISE * below, self._rules.most_qps)
        elif not below:
            self._rate_qps = above * self._fall
        elif above > NARROW * below:
            self._rate_qps = math.sqrt(below * above)
        else:
            self._centre_qps = math.sqrt(below * above)

    # --- refining

    def _refining_offer(self) -> Offer:
        """As short as tells anything: the more stretches, the less counts how fast the server was in one."""
        centre_qps = self._centre_qps or self._rate_qps
        is_low = LOW_HIGH_HIGH_LOW[len(self._refining) % len(LOW_HIGH_HIGH_LOW)]
        violations = max(REFINE_VIOLATIONS, REFINE_CLUMPS * clump(self._near()))
        rate_qps = centre_qps * (1 - self._away if is_low else 1 + self._away)
        return Offer(rate_qps, math.ceil(violations / self._rules.allowed_frac))

    def _is_narrow(self, at: Crossing) -> bool:
        return (
            len(self._near()) >= FEWEST_STRETCHES
            and at.half_width_frac <= self._rules.precision_frac
            and self._is_enclosed(at)
        )

    def _is_enclosed(self, at: Crossing) -> bool:
        """The peak is between stretches, or at most as far beyond them as they may be apart."""
        rates = [each.rate_qps for each in self._near()]
        return min(rates) * (1 - NEAREST) <= at.rate_qps <= max(rates) * (1 + NEAREST)

    def _learn(self) -> None:
        """Where the peak seems to be now, how far from it the next stretches are, and whether enough is known.

        The centre moves no farther at once than a line can be trusted.
        """
        before_qps, limit = self._centre_qps or self._rate_qps, 1 + FARTHEST / 2
        at = crossing(self._near(), self._rules.allowed_frac)
        self._centre_qps = min(max(at.rate_qps, before_qps / limit), before_qps * limit)
        self._away = min(max(DIFFERENCE / max(at.steepness, 1.0), NEAREST), FARTHEST)
        requests = sum(each.requests for each in self._near())
        if not self._is_narrow(at):
            self._narrow_at = None
        elif self._narrow_at is None:
            self._narrow_at = requests
        self._is_known = self._narrow_at is not None and requests >= CONFIRMED * self._narrow_at

    def _crossing(self) -> Crossing | None:
        """Where the line crosses; None before the stretches are on both sides."""
        near = self._near()
        return crossing(near, self._rules.allowed_frac) if len(near) > 1 else None

    def _near(self) -> Sequence[Stretch]:
        """The stretches that are near to where the peak seems to be, the last one always."""
        centre_qps, width = self._centre_qps or self._rate_qps, 1 + max(WINDOW * self._away, MIN_WINDOW)
        before, last = self._refining[:-1], self._refining[-1:]
        return [each for each in before if centre_qps / width <= each.rate_qps <= centre_qps * width] + last

    # --- what was found

    def _is_generator_late(self) -> bool:
        """Of the stretches that missed more than is allowed, most were sent late: these tell no end of the server."""
        late = [
            each.lag_s > LATE_FRAC * self._slo_s
            for each in self._seen
            if each.violations > self._rules.allowed_frac * each.requests
        ]
        return 2 * sum(late) > len(late)

    def _within_slo(self) -> Peak:
        """The peak, if the generator was in time."""
        if self._limit == "none":
            return self._peak(0.0, 0.0, min(self._above_qps, self._rules.most_qps), None, is_precise=True)
        at = self._crossing()
        if at is None or math.isinf(at.half_width_frac):
            return self._bracketed()
        is_precise = at.half_width_frac <= self._rules.precision_frac and self._is_enclosed(at)
        return self._peak(at.rate_qps, at.low_qps, at.high_qps, at, is_precise=is_precise)

    def _bracketed(self) -> Peak:
        """What the bracket alone says: the middle is a guess; bounds are rates that are surely carried or violated."""
        below, above = self._below_qps, self._above_qps
        middle = math.sqrt(below * above) if below > 0 and above < math.inf else below or self._rate_qps
        by_rate = _by_rate(self._seen[: len(self._seen) - len(self._refining)])
        carried = [qps for qps, of in by_rate.items() if verdict(of, self._rules.allowed_frac) == "carried"]
        surely_below = max((qps for qps in carried if qps < above), default=0.0)
        return self._peak(self._centre_qps or middle, surely_below, above, None, is_precise=False)

    def _peak(self, rate_qps: float, low_qps: float, high_qps: float, at: Crossing | None, *, is_precise: bool) -> Peak:
        return Peak(
            rate_qps=rate_qps,
            low_qps=low_qps,
            high_qps=high_qps if high_qps <= self._rules.most_qps else None,
            limit=self._limit,
            is_precise=is_precise,
            requests=sum(each.requests for each in self._seen),
            steepness=None if at is None else at.steepness,
            clump=clump(self._seen) if at is None else at.clump,
            lag_s=max((each.lag_s for each in self._seen), default=0.0),
            probes=_probes(self._seen),
            accuracy=self._accuracy(),
        )

    def _accuracy(self) -> float | None:
        """The mean accuracy of the answers near the peak; before any stretch is near it, of those of the last one."""
        near = self._near() if self._refining else self._seen[-1:]
        known = [(each.accuracy, each.requests) for each in near if each.accuracy is not None]
        total = sum(requests for _, requests in known)
        return sum(accuracy * requests for accuracy, requests in known) / total if total else None


def _by_rate(stretches: Sequence[Stretch]) -> dict[float, list[Stretch]]:
    by_rate: dict[float, list[Stretch]] = {}
    for each in stretches:
        by_rate.setdefault(each.rate_qps, []).append(each)
    return by_rate


def _probes(stretches: Sequence[Stretch]) -> tuple[Probe, ...]:
    """Stretches of one rate together."""
    return tuple(
        Probe(
            rate_qps,
            sum(each.requests for each in of),
            sum(each.violations for each in of),
            *violation_interval(of),
        )
        for rate_qps, of in sorted(_by_rate(stretches).items())
    )
