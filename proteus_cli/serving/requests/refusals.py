"""Errors for requests that the controller does not admit; the error decides the status."""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Mapping

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import BeyondHosts, NeverInTime, OtherPlanNeeded, Refused, TooManyRows, Unfit
from proteus_cli.domain.request import Bounds, Outcome
from proteus_cli.errors import (
    BadRequest,
    BoundsUnmet,
    DeadlineExceeded,
    NotAccurateEnough,
    NotReady,
    Overloaded,
    RequestError,
)
from proteus_cli.serving.logs import LogRateLimiter, fields
from proteus_cli.serving.requests.counts import RequestCounts
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.query import DEFAULT_OPTIONS, Query, capped_timeout_s
from proteus_cli.units import counted

log = logging.getLogger("proteus.dataplane")

_OVERLOADED = "more queries than the plan can carry, some are refused"


class Refusals:
    """Makes the error of each request that is not admitted. Each is counted as the end of its request.

    Under overload most requests are refused. Usual ones are refused alike, in half of the time,
    until this turn of the event loop ends or a request leaves its place. ``in_turn`` has by family the rows of the
    refused request, and its error.
    """

    def __init__(
        self,
        families: Mapping[str, ServedFamily],
        controller: Controller,
        counts: RequestCounts,
        clock: Callable[[], float],
        max_timeout_s: float,
    ) -> None:
        self._families, self._controller, self._max_timeout_s = families, controller, max_timeout_s
        self._counts, self._log_limiter = counts, LogRateLimiter(clock)
        self.in_turn: dict[str, tuple[int, Overloaded]] = {}

    def raise_alike(self, query: Query, now_s: float) -> None:
        """Raise the refusal of this turn of the event loop, if there is one of the family for as few or fewer rows."""
        family, rows = query.family, query.rows
        if family not in self.in_turn or query.options != DEFAULT_OPTIONS:
            return
        refused_rows, refusal = self.in_turn[family]
        if rows >= refused_rows:
            self._controller.dispatch.count_refused(family, rows, now_s, self._families[family].slo_s)
            self._counts.by_family[family].ended(Outcome.REJECTED)
            self._warn(family, _OVERLOADED)
            raise refusal.with_traceback(None)

    def error(
        self, query: Query, offered: Refused | BeyondHosts | Unfit, timeout_s: float, *, is_usual: bool
    ) -> RequestError:
        """The error of a request with that timeout. One that ``is_usual`` arrives now, and has no bounds."""
        keeps_plan = self._controller.policy.replanning is None
        counts = self._counts.by_family[query.family]
        if isinstance(offered, BeyondHosts) and self._is_for_call(query, offered):
            counts.ended(Outcome.DROPPED)
            return DeadlineExceeded(never_in_time(query, timeout_s, offered, keeps_plan=keeps_plan), is_late=False)
        if isinstance(offered, TooManyRows):
            return BadRequest(
                f"the hosted variants of `{query.family}` answer at most {counted(offered.max_rows, 'row')} of a "
                f"request within {1000 * timeout_s:g} ms; got {query.rows}"
            )
        counts.ended(Outcome.REJECTED)
        match offered:
            case NeverInTime():
                return BoundsUnmet(never_in_time(query, timeout_s, offered, keeps_plan=keeps_plan))
            case Unfit():
                return _unfit(query, offered)
            case OtherPlanNeeded():
                return self._other_plan_needed(query, offered, timeout_s, keeps_plan=keeps_plan)
            case Refused(is_lost=True):
                return self._lost(query, offered)
            case Refused():
                is_alike = is_usual and query.options == DEFAULT_OPTIONS
                return self._overloaded(query, offered, is_alike=is_alike)

    def _is_for_call(self, query: Query, offered: BeyondHosts) -> bool:
        """Whether only the deadline of its call leaves a request too little time, not its rows or what it asks for."""
        options, slo_s = query.options, self._families[query.family].slo_s
        without_call_s = capped_timeout_s(options.asked_timeout_s, slo_s, self._max_timeout_s)
        is_time_enough = isinstance(offered, NeverInTime) or offered.least_timeout_s <= without_call_s
        return options.is_left_of_call and is_time_enough

    def _other_plan_needed(
        self, query: Query, offered: OtherPlanNeeded, timeout_s: float, *, keeps_plan: bool
    ) -> RequestError:
        self._warn(query.family, "queries that only another plan could answer in time are refused")
        told = never_in_time(query, timeout_s, offered, keeps_plan=keeps_plan)
        is_final = keeps_plan and query.options.asks_for_more
        return BoundsUnmet(told) if is_final else Overloaded(told, retry_after_s=offered.retry_after_s)

    def _lost(self, query: Query, offered: Refused) -> NotReady:
        self._warn(query.family, "no device that hosts it is available, its queries are refused")
        bounds = query.options.bounds
        what = f"{bounds.version} of `{query.family}`" if bounds and bounds.version else f"`{query.family}`"
        return NotReady(f"no device that hosts {what} is available", retry_after_s=offered.retry_after_s)

    def _overloaded(self, query: Query, offered: Refused, *, is_alike: bool) -> Overloaded:
        self._warn(query.family, _OVERLOADED)
        refusal = Overloaded(
            f"more queries for `{query.family}` than the plan can carry", retry_after_s=offered.retry_after_s
        )
        if is_alike:
            if not self.in_turn:
                asyncio.get_running_loop().call_soon(self.in_turn.clear)
            self.in_turn[query.family] = query.rows, refusal
        return refusal

    def _warn(self, family: str, problem: str) -> None:
        if times := self._log_limiter.occurred((problem, family)):
            log.warning("%s: %s", family, problem, extra=fields(family=family, requests=times))


def _unfit(query: Query, offered: Unfit) -> RequestError:
    options = query.options
    if options.bounds is not None:
        return BoundsUnmet(unmet(query, options.bounds, offered))
    available = ", ".join(f"{variant} ({accuracy:.4g})" for variant, accuracy in offered.available.items())
    return NotAccurateEnough(
        f"no variant of `{query.family}` that is planned has an accuracy of {options.min_accuracy:g} or more; "
        f"available: {available or 'none'}"
    )


def unmet(query: Query, bounds: Bounds, unfit: Unfit) -> str:
    """The bounds of a query, and the variants there are instead."""
    asked = " and ".join(_asked(query, bounds))
    variants = [_described(name, accuracy, unfit, bounds) for name, accuracy in unfit.available.items()]
    cascades = [f"{name} ({accuracy:.4g})" for name, accuracy in unfit.expected.items()]
    available = ", ".join(variants + (cascades if bounds.min_expected_accuracy else []))
    return f"nothing of `{query.family}` that is planned has {asked}; available: {available or 'none'}"


def never_in_time(query: Query, timeout_s: float, offered: BeyondHosts, *, keeps_plan: bool) -> str:
    """The query and its time, and the time of an idle device in some plan, or in this one.

    A server that ``keeps_plan`` makes no other one by itself.
    """
    asked = " and ".join(_asked(query, query.options.bounds or Bounds()))
    rows = f" to {counted(query.rows, 'row')}" if query.rows > 1 else ""
    what = f"an answer{rows}{asked and f' with {asked}'} within {1000 * timeout_s:g} ms"
    needs = f"has {what}: even an idle device needs {format_least_ms(offered.least_timeout_s)}"
    if isinstance(offered, OtherPlanNeeded):
        why = "this server makes no other plan by itself" if keeps_plan else "another plan could host a faster one"
        return f"no variant of `{query.family}` that is hosted now {needs}; {why}"
    return f"no variant of `{query.family}` {needs}"


def format_least_ms(timeout_s: float) -> str:
    """A time that will do, so it is rounded up."""
    return f"{math.ceil(timeout_s * 1e5) / 100:g} ms"


def _asked(query: Query, bounds: Bounds) -> Iterator[str]:
    if bounds.version is not None:
        yield str(bounds.version)
    yield from _accuracies_asked(query, bounds)
    if bounds.is_energy_limited:
        yield f"an energy of {bounds.max_energy_j:g} J or less"


def _accuracies_asked(query: Query, bounds: Bounds) -> Iterator[str]:
    if query.options.min_accuracy:
        yield f"an accuracy of {query.options.min_accuracy:g} or more"
    if bounds.min_expected_accuracy:
        yield f"an expected accuracy of {bounds.min_expected_accuracy:g} or more"


def _described(variant: str, accuracy: float, unfit: Unfit, bounds: Bounds) -> str:
    if not bounds.is_energy_limited:
        return f"{variant} ({accuracy:.4g})"
    energy_j = unfit.energy_j.get(variant, math.nan)
    energy = "of unknown power" if math.isnan(energy_j) else f"{energy_j:.3g} J"
    return f"{variant} ({accuracy:.4g}, {energy})"
