"""The peak of a carrier, within the time that is allowed."""

import math
import time
from collections.abc import Callable

import numpy as np

from proteus_cli.errors import EngineError
from proteus_cli.progress import Advance
from proteus_cli.studies.peak.carriers import Carrier
from proteus_cli.studies.peak.search import Offer, PeakSearch
from proteus_cli.studies.peak.stretches import WARM_UP_FRAC, WARM_UP_SLOS, duration_s
from proteus_cli.studies.results import Peak, PeakRules
from proteus_cli.units import counted, format_rate

MIN_REQUESTS = 50
"""A stretch that is cut to what is left of the time has so many, or is left out."""
LONGEST_FRAC, LONGEST_SLOS = 0.05, 20.0
"""Of the time, a stretch takes at most this part, or so many times the SLO where that is longer: a long one would count
how fast the machine was just then, which differs from minute to minute."""
_ROUNDING = 1e-9


def measured_peak(
    carrier: Carrier,
    rules: PeakRules,
    first_qps: float,
    allowed_s: float,
    seed: int,
    advance: Advance,
    now_s: Callable[[], float] = time.monotonic,
) -> Peak:
    """Search until enough is known, or until the time is over: the interval is wider then.

    Raises `EngineError` where there is no time for a single stretch.
    """
    search, begun_s = PeakSearch(rules, first_qps, carrier.slo_s), now_s()
    rng = np.random.default_rng(seed)
    while (offer := search.next()) is not None:
        left_s = allowed_s - (now_s() - begun_s)
        longest_s = min(left_s, _longest_s(offer.rate_qps, carrier.slo_s, allowed_s))
        fitting = fitted(offer, carrier.slo_s, longest_s) if carrier.is_real_time else offer
        if fitting is None or left_s <= 0:
            break
        doing = f"{counted(fitting.requests, 'request')} at {format_rate(fitting.rate_qps)}"
        passed_frac = 0.0 if math.isinf(allowed_s) else 1 - left_s / allowed_s
        advance(doing, max(search.done_frac, passed_frac))
        search.saw(carrier.carry(fitting, rng.spawn(1)[0]))
    peak = search.found()
    if not peak.probes:
        raise EngineError("There was no time to offer any requests.", hint="give a longer `--budget`")
    return peak


def fitted(offer: Offer, slo_s: float, left_s: float) -> Offer | None:
    """As many of the requests as there is time for; None where these are too few to say anything."""
    if duration_s(offer, slo_s) <= left_s:
        return offer
    counted_s = (left_s - WARM_UP_SLOS * slo_s) / (1 + WARM_UP_FRAC)
    requests = max(MIN_REQUESTS, int(counted_s * offer.rate_qps * (1 - _ROUNDING)))
    cut = Offer(offer.rate_qps, min(requests, offer.requests))
    return cut if duration_s(cut, slo_s) <= left_s else None


def _longest_s(rate_qps: float, slo_s: float, allowed_s: float) -> float:
    """Seconds that a stretch may take where all of the time is left: the fewest requests always fit."""
    fewest_s = duration_s(Offer(rate_qps, MIN_REQUESTS), slo_s)
    return max(LONGEST_FRAC * allowed_s, LONGEST_SLOS * slo_s, fewest_s)
