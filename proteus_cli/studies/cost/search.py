"""The search for the cheapest plan that keeps the SLO, over multiples of the demand; pure."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

MAX_TRIED = 16
STEP = 1.25
MIN_MULTIPLE, MAX_MULTIPLE = STEP**-8, STEP**8  # from a sixth of the busiest seconds' demand to six times it
ALIKE = 1.02  # multiples that differ by less are the same


class Priced(Protocol):
    """A plan that has a price."""

    @property
    def cost(self) -> float: ...


class JudgedPlan(Protocol):
    """How a plan did."""

    @property
    def keeps(self) -> bool: ...


P = TypeVar("P", bound=Priced)
J = TypeVar("J", bound=JudgedPlan)


@dataclass(frozen=True, slots=True)
class CheapestPlan(Generic[P, J]):
    """The cheapest plan that kept the SLO, for so many times the demand, after so many were ``tried``."""

    plan: P
    judged: J
    multiple: float
    tried: int


def cheapest(
    plan_for: Callable[[float], P | None],
    judge: Callable[[P], J | None],
    goes_on: Callable[[int], bool] = lambda _tried: True,
) -> CheapestPlan[P, J] | None:
    """The cheapest plan found; None where none keeps the SLO.

    ``plan_for`` makes the cheapest plan for a multiple of the demand, which costs no less for a larger one; None where
    there is none. ``goes_on`` is told how many were tried, and says whether there is time for a further one; where
    ``judge`` says None, the time ended meanwhile.
    """
    best: CheapestPlan[P, J] | None = None
    low, high, tried = 0.0, math.inf, 0
    multiples = _Multiples()
    while tried < MAX_TRIED and (multiple := multiples.next(low, high)) is not None and goes_on(tried):
        plan = plan_for(multiple)
        if plan is None and best is None:
            multiples.max_multiple = min(multiples.max_multiple, multiple)
            continue
        if plan is None:
            low = multiple  # less than what was planned for: as good as too little, so that the search ends
            continue
        if best is not None and plan.cost >= best.plan.cost:
            high = multiple  # whether or not it keeps the SLO: what costs less is for less
            continue
        judged = judge(plan)
        if judged is None:
            break
        tried += 1
        if judged.keeps:
            best, high = CheapestPlan(plan, judged, multiple, tried), multiple
        else:
            low = multiple
    return None if best is None else CheapestPlan(best.plan, best.judged, best.multiple, tried)


@dataclass(slots=True)
class _Multiples:
    """What to plan for next: first out from 1 until one keeps the SLO and one doesn't, then between the two.

    ``max_multiple``: no plan serves so much.
    """

    max_multiple: float = MAX_MULTIPLE * STEP

    def next(self, low: float, high: float) -> float | None:
        """``low`` is too little, or 0; ``high`` is enough, or infinite. None: nothing is left to try."""
        return next(self._wanted(low, high), None)

    def _wanted(self, low: float, high: float) -> Iterator[float]:
        if math.isinf(high):
            following = 1.0 if low == 0 else low * STEP
            if following < self.max_multiple:
                yield following
            elif low > 0 and low * ALIKE < self.max_multiple < math.inf and self.max_multiple <= MAX_MULTIPLE:
                yield math.sqrt(low * self.max_multiple)
            elif low == 0 and self.max_multiple > MIN_MULTIPLE:
                yield self.max_multiple / STEP
        elif low == 0:
            if high / STEP >= MIN_MULTIPLE:
                yield high / STEP
        elif high > low * ALIKE:
            yield math.sqrt(low * high)
