"""The search for the peak, as values: which rate to offer next, for how many requests. No clock, no load.

::

    search = PeakSearch(rules, first_qps=100.0)
    while (offer := search.next()) is not None:
        search.saw(carry(offer))        # a `Stretch`
    peak = search.found()
"""

import math
from collections.abc import Generator, Sequence
from itertools import cycle

from proteus_cli.studies.peak.fit import Crossing, Offer, clump, crossing, verdict, violation_interval
from proteus_cli.studies.results import NARROW, Limit, Peak, PeakRules, Probe, Stretch

FAR_VIOLATIONS, FIRST_VIOLATIONS = 2.0, 8.0
"""The first requests of a probe, by the violations that they have at a rate that is just carried. They are few before
any rate is violated, as twice the rate soon tells."""
ENOUGH = 6.0
"""A probe that misses too much without certainty is near the peak after this multiple of its first requests."""
RISE = 2.0
"""Ratio of rates until the peak is bracketed. The bracket is then halved down to `NARROW`."""
LOWEST_FALL, HIGHEST_FALL, OF_ANSWERED = 0.25, 0.87, 0.95
"""The rate after a violated one, as a fraction of it: at least, at most, and as a fraction of the requests that were
answered in time. A server that sheds load answers about what it can carry."""
MIN_QPS, MIN_FRAC = 0.01, 1e-3
"""No peak is looked for below this rate, or this fraction of the first rate, whichever is lower."""

REFINE_VIOLATIONS, REFINE_CLUMPS = 40.0, 2.0
"""The length of a stretch near the peak, in violations and in clumps of them."""
FEWEST_STRETCHES = 10
"""Minimum number of stretches that tell how well a line fits."""
LOW_HIGH_HIGH_LOW = (True, False, False, True)
"""Whether stretches are below the peak, in turn: a speed that rises or falls meanwhile is alike on both sides."""
DIFFERENCE = 0.8
"""Difference of the log odds between the peak and the rates on either side: far enough to tell the steepness."""
NEAREST, FARTHEST, FIRST_AWAY = 0.012, 0.12, 0.04
"""The distance of stretches from the peak, as a fraction of the rate: minimum, maximum, and at first."""
WINDOW, MIN_WINDOW = 2.2, 0.06
"""The fit has the stretches within this multiple of the distance, as the line is straight near the peak only. The
second, a fraction of the rate, is its minimum: a moving peak then throws no stretch away."""
LATE_FRAC = 0.5
"""A stretch whose requests are sent later (p99) than this fraction of the SLO tells more of the generator."""
CONFIRMED = 1.3
"""The interval has to stay narrow until this multiple of the requests: once may be by chance."""


def _totals(stretches: Sequence[Stretch]) -> tuple[int, int]:
    """Requests and violations."""
    return sum(each.requests for each in stretches), sum(each.violations for each in stretches)


class PeakSearch:
    """Decides the next offer. ``first_qps`` is a guess of the peak, which need not be good.

    ``slo_s`` is the SLO of requests whose generator may be late.
    """

    def __init__(self, rules: PeakRules, first_qps: float, slo_s: float = math.inf) -> None:
        self._rules, self._slo_s = rules, slo_s
        self._seen: list[Stretch] = []
        self._refining: list[Stretch] = []
        self._below_qps, self._above_qps = 0.0, math.inf
        self._rate_qps = min(first_qps, rules.most_qps)
        self._centre_qps: float | None = None
        self._away = FIRST_AWAY
        self._limit: Limit = "slo"
        self._steps = self._offers()
        self._offer: Offer | None = next(self._steps)

    def next(self) -> Offer | None:
        """The next offer; None where enough is known, or no more is allowed."""
        left = self._rules.most_requests - _totals(self._seen)[0]
        if self._offer is None or left <= 0:
            return None
        return Offer(self._offer.rate_qps, min(self._offer.requests, left))

    def saw(self, stretch: Stretch) -> None:
        """Take the stretch of the last offer."""
        self._seen.append(stretch)
        try:
            self._offer = self._steps.send(stretch)
        except StopIteration:
            self._offer = None

    @property
    def done_frac(self) -> float:
        """The approximate fraction of the search that is done; below 1 while it goes on."""
        if self._centre_qps is None:
            return 0.1 * (self._below_qps > 0) + 0.1 * (self._above_qps < math.inf)
        at = self._crossing()
        width = at.half_width_frac if at is not None else math.inf
        requests_frac = (self._rules.precision_frac / width) ** 2 / CONFIRMED if width > 0 else 1.0
        return max(0.3, min(0.99, requests_frac))

    def _offers(self) -> Generator[Offer, Stretch, None]:
        self._centre_qps = yield from self._bracket()
        if self._centre_qps is not None:
            yield from self._refine(self._centre_qps)

    def _bracket(self) -> Generator[Offer, Stretch, float | None]:
        """Bracket the peak by probes; returns its approximate place, None where there is none.

        A probe has as many requests again while it is open. A rate that seems to be carried is left after its first
        requests: a wrong guess costs a probe of a higher rate. At the highest rate the verdict has to be sure.
        """
        allowed_frac, most_qps = self._rules.allowed_frac, self._rules.most_qps
        least_qps = min(MIN_QPS, MIN_FRAC * self._rate_qps)
        while True:
            fall, rate_qps, probe, requests = 1 / RISE, self._rate_qps, list[Stretch](), 0
            first = math.ceil((FAR_VIOLATIONS if self._above_qps == math.inf else FIRST_VIOLATIONS) / allowed_frac)
            while True:
                probe.append((yield Offer(rate_qps, max(first, requests))))
                requests, violations = _totals(probe)
                said = verdict(probe, allowed_frac)
                if said == "violated":
                    self._above_qps = min(self._above_qps, rate_qps)
                    fall = min(max(OF_ANSWERED * (1 - violations / requests), LOWEST_FALL), HIGHEST_FALL)
                    break
                if said == "carried" or (violations <= allowed_frac * requests and rate_qps < most_qps):
                    self._below_qps = max(self._below_qps, rate_qps)
                    break
                if requests >= ENOUGH * first:
                    return rate_qps
            below, above = self._below_qps, self._above_qps
            if above <= least_qps or below >= most_qps:
                self._limit = "none" if above <= least_qps else "generator"
                return None
            if above == math.inf:
                self._rate_qps = min(RISE * below, most_qps)
            elif not below:
                self._rate_qps = above * fall
            elif above > NARROW * below:
                self._rate_qps = math.sqrt(below * above)
            else:
                return math.sqrt(below * above)

    def _refine(self, centre_qps: float) -> Generator[Offer, Stretch, None]:
        """Offer short stretches below and above the peak until its interval is narrow, and stays so.

        The centre moves no farther at once than a line can be trusted.
        """
        allowed_frac, limit = self._rules.allowed_frac, 1 + FARTHEST / 2
        narrow_at: int | None = None  # requests near the peak when the interval became narrow enough
        for is_low in cycle(LOW_HIGH_HIGH_LOW):
            violations = max(REFINE_VIOLATIONS, REFINE_CLUMPS * clump(self._near()))
            rate_qps = centre_qps * (1 - self._away if is_low else 1 + self._away)
            self._refining.append((yield Offer(rate_qps, math.ceil(violations / allowed_frac))))
            at = crossing(self._near(), allowed_frac)
            self._centre_qps = centre_qps = min(max(at.rate_qps, centre_qps / limit), centre_qps * limit)
            self._away = min(max(DIFFERENCE / max(at.steepness, 1.0), NEAREST), FARTHEST)
            near = self._near()
            requests, _ = _totals(near)
            if len(near) < FEWEST_STRETCHES or not self._is_precise(at):
                narrow_at = None
            elif narrow_at is None:
                narrow_at = requests
            if narrow_at is not None and requests >= CONFIRMED * narrow_at:
                return

    def _is_precise(self, at: Crossing) -> bool:
        """Whether the interval is narrow, and the peak between stretches, or next to one of them."""
        rates = [each.rate_qps for each in self._near()]
        is_enclosed = min(rates) * (1 - NEAREST) <= at.rate_qps <= max(rates) * (1 + NEAREST)
        return is_enclosed and at.half_width_frac <= self._rules.precision_frac

    def _crossing(self) -> Crossing | None:
        """The place where the line crosses; None before stretches are on both sides."""
        near = self._near()
        return crossing(near, self._rules.allowed_frac) if len(near) > 1 else None

    def _near(self) -> Sequence[Stretch]:
        """The stretches near the peak, and always the last one."""
        centre_qps, width = self._centre_qps or self._rate_qps, 1 + max(WINDOW * self._away, MIN_WINDOW)
        before, last = self._refining[:-1], self._refining[-1:]
        return [each for each in before if centre_qps / width <= each.rate_qps <= centre_qps * width] + last

    # --- the result

    def found(self) -> Peak:
        """The peak as it is known now."""
        rules, seen, limit, at = self._rules, self._seen, self._limit, self._crossing()
        below, above, is_precise = self._below_qps, self._above_qps, False
        if limit == "generator":
            rate_qps, low_qps, high_qps = below, below, math.inf
        elif limit == "none":
            rate_qps, low_qps, high_qps, is_precise = 0.0, 0.0, min(above, rules.most_qps), True
        elif at is not None and math.isfinite(at.half_width_frac):
            rate_qps, low_qps, high_qps, is_precise = at.rate_qps, at.low_qps, at.high_qps, self._is_precise(at)
        else:  # the bracket alone: the middle is a guess, and bounds are rates that are surely carried or violated
            by_rate = _by_rate(seen[: len(seen) - len(self._refining)])
            carried = [qps for qps, of in by_rate.items() if verdict(of, rules.allowed_frac) == "carried"]
            middle = math.sqrt(below * above) if below > 0 and above < math.inf else below or self._rate_qps
            low_qps = max((qps for qps in carried if qps < above), default=0.0)
            at, rate_qps, high_qps = None, self._centre_qps or middle, above
        missing = [each for each in seen if each.violations > rules.allowed_frac * each.requests]
        late = [each for each in missing if each.lag_s > LATE_FRAC * self._slo_s]
        if limit != "generator" and 2 * len(late) > len(missing):
            limit, rate_qps, high_qps, is_precise = "late_generator", low_qps, math.inf, False
        near = self._near() if self._refining else seen[-1:]
        known = [(each.accuracy, each.requests) for each in near if each.accuracy is not None]
        total = sum(requests for _, requests in known)
        probes = sorted(_by_rate(seen).items())
        return Peak(
            rate_qps=rate_qps,
            low_qps=low_qps,
            high_qps=high_qps if high_qps <= rules.most_qps else None,
            limit=limit,
            is_precise=is_precise,
            requests=_totals(seen)[0],
            steepness=None if at is None else at.steepness,
            clump=clump(seen) if at is None else at.clump,
            lag_s=max((each.lag_s for each in seen), default=0.0),
            probes=tuple(Probe(qps, *_totals(of), *violation_interval(of)) for qps, of in probes),
            accuracy=sum(accuracy * requests for accuracy, requests in known) / total if total else None,
        )


def _by_rate(stretches: Sequence[Stretch]) -> dict[float, list[Stretch]]:
    by_rate: dict[float, list[Stretch]] = {}
    for each in stretches:
        by_rate.setdefault(each.rate_qps, []).append(each)
    return by_rate
