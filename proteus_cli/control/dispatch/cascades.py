"""Which newcomers of a variant go by which cascade of the plan in force, and which part of them is deferred."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from proteus_cli.control.decision import CascadeRoute, FirstStage, HostedVariant
from proteus_cli.control.dispatch.shares import WeightedShares
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.request import Bounds, Request
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile, PlannedCascade, accuracy_by_level

MIN_ALONE_FRAC = 1e-9
"""A smaller part of a variant's rate, that no cascade takes, is an error of rounding."""

RESERVED_FRAC = 0.2
"""The part of the room in a second stage's queue that is kept from the surest of the queries deferred to it.

For calls that share a line, a small reserve for the more valuable calls is nearly as good as the best rule. This is
trunk reservation (R. L. Miller, A queueing reward system with several customer classes, 1969). `benchmarks.cascades` of
1ab7c97d compares it with none."""


class Cascades:
    """Shares the newcomers of first stages among their cascades, as the plan says: exactly, and without randomness.

    A first stage answers alone the queries beyond the rates of its cascades. A variant without a planned rate has the
    cascade of `_of_spares`. All rows of a request go the same way.
    ``ever_in_use`` is False until a plan has cascades or a request has `Bounds`; until then no request needs a decision
    here. ``by_first`` has the cascades of the plan by first variant, the highest rate first.
    """

    def __init__(self) -> None:
        self.ever_in_use = False
        self.in_use: tuple[CascadeRoute, ...] = ()
        self._shares: dict[VariantKey, WeightedShares[CascadeRoute | None]] = {}
        self.by_first: dict[VariantKey, tuple[CascadeRoute, ...]] = {}
        self._counts: dict[FirstStage, list[int]] = {}

    def use(self, plan: Plan, hosted: Sequence[HostedVariant]) -> None:
        """Go by this plan, which places ``hosted``, from now on."""
        self.ever_in_use = self.ever_in_use or bool(plan.cascades)
        routes = _routes(plan, hosted)
        self.in_use = tuple(route for of_first in routes.values() for route in of_first)
        self._shares = {first: _shares(plan, first, found) for first, found in routes.items()}
        self.by_first = {
            first: tuple(sorted(found, key=lambda route: route.cascade.rate_qps, reverse=True))
            for first, found in routes.items()
        }
        stages = {route.stage for route in self.in_use}
        self._counts = {each: self._counts.get(each) or [0] * (len(each.thresholds) + 1) for each in stages}

    def route(self, request: Request, hosted: HostedVariant) -> CascadeRoute | None:
        """The way of a request that ``hosted`` has answered in time; None: the answer is sent, however sure it is.

        It takes its share of the cascades by that: ask once.
        """
        shares = self._shares.get(hosted.key)
        if shares is None or request.is_deferred:
            return None
        if request.bounds is None:
            return shares.next(request.rows)
        return self._bounded(request, request.bounds, hosted)

    def _bounded(self, request: Request, bounds: Bounds, hosted: HostedVariant) -> CascadeRoute | None:
        """The route of a request with bounds: as for others; where it needs a cascade, the one with the highest rate.

        It is no way to a second stage that the request does not accept: then there may be none.
        """
        is_accurate = hosted.accuracy >= bounds.min_expected_accuracy
        routes = [route for route in self.by_first[hosted.key] if bounds.accepts(route.cascade.second)]
        if is_accurate and not bounds.needs_confidence and len(routes) == len(self.by_first[hosted.key]):
            return self._shares[hosted.key].next(request.rows)
        for route in routes:
            if is_accurate or route.cascade.point.accuracy >= bounds.min_expected_accuracy:
                return route
        return None  # or a plan without that cascade came while the batch ran

    @staticmethod
    def room_frac(route: CascadeRoute, level: int) -> float:
        """The part of the second stage's queue that may be taken, at most, for a query of that level to join it.

        The surer the first stage is, the less is it worth to ask the second. Under pressure the threshold thus falls,
        from one query to the next, to where the second stage can make the rest.
        """
        return 1.0 - RESERVED_FRAC * min(level / route.cut, 1.0) if route.cut else 1.0

    def observe(self, stage: FirstStage, levels: Iterable[int]) -> None:
        """Count the levels of the rows that a first stage has answered, for a request that goes by a cascade."""
        counts = self._counts.get(stage)
        if counts is not None:
            for level in levels:
                counts[level] += 1

    def observed(self, route: CascadeRoute) -> tuple[float | None, int]:
        """The part of its rows that a first stage has deferred at the threshold of a cascade, and of how many rows.

        Rows count since the first stage has its present thresholds. The part is None without any.
        """
        counts = self._counts[route.stage]
        rows = sum(counts)
        return (sum(counts[: route.cut + 1]) / rows if rows else None), rows


def _routes(plan: Plan, hosted: Sequence[HostedVariant]) -> Mapping[VariantKey, list[CascadeRoute]]:
    """The cascades of a plan, by first variant."""
    accuracy = dict[VariantKey, float]()
    for host in hosted:  # of several device types the lowest, as in plans
        accuracy[host.key] = min(host.accuracy, accuracy.get(host.key, host.accuracy))
    profiled = {id(each): each for host in hosted for each in host.cascades}.values()
    cascades = (*plan.cascades, *_of_spares(plan, profiled))
    points: dict[VariantKey, set[tuple[float, float]]] = {}
    for each in cascades:
        points.setdefault(VariantKey(each.family, each.first), set()).add(_place(each.point))
    for known in profiled:
        points.setdefault(VariantKey(known.family, known.first), set()).update(map(_place, known.points))
    stages = {key: _stage(key, sorted(found)) for key, found in points.items()}
    routes: dict[VariantKey, list[CascadeRoute]] = {}
    for cascade in cascades:
        first, second = (VariantKey(cascade.family, variant) for variant in (cascade.first, cascade.second))
        cut = sorted(points[first]).index(_place(cascade.point))
        pair = (cascade.family, cascade.first, cascade.second)
        known_points = [each.points for each in profiled if (each.family, each.first, each.second) == pair]
        own = next((each for each in known_points if _place(cascade.point) in map(_place, each)), (cascade.point,))
        by_level = accuracy_by_level(own, stages[first].thresholds)
        route = CascadeRoute(cascade, accuracy[second], stages[first], cut, *by_level)
        routes.setdefault(first, []).append(route)
    return routes


def _of_spares(plan: Plan, profiled: Iterable[CascadeProfile]) -> list[PlannedCascade]:
    """A cascade for each variant to which the plan sends no queries, and which may help where others are behind.

    It leads to a second stage of the plan, and defers at most the fraction that the plan's cascades of its family do:
    a spare that helps then costs neither accuracy nor more of the second stage's time than was planned.
    """
    most_frac: dict[VariantKey, float] = {}  # by second stage
    for planned in plan.cascades:
        second = VariantKey(planned.family, planned.second)
        most_frac[second] = max(planned.point.deferred_frac, most_frac.get(second, 0.0))
    with_rate = {placement.key for placement in plan.placements if placement.rate_qps > 0}
    best: dict[VariantKey, PlannedCascade] = {}
    for known in profiled:
        first, second = VariantKey(known.family, known.first), VariantKey(known.family, known.second)
        if first in with_rate or second not in most_frac:
            continue
        for point in known.points:
            is_better = first not in best or point.accuracy > best[first].point.accuracy
            if point.deferred_frac <= most_frac[second] and is_better:
                best[first] = PlannedCascade(*first, known.second, point, rate_qps=0.0, share=0.0)
    return list(best.values())


def _place(point: CascadePoint) -> tuple[float, float]:
    return point.threshold, point.deferred_frac


def _stage(key: VariantKey, places: Sequence[tuple[float, float]]) -> FirstStage:
    """Where profiles of several device types contradict each other, ranks rise with the thresholds all the same."""
    ranks = accumulate((rank for _, rank in places), max)
    return FirstStage(key, tuple(threshold for threshold, _ in places), tuple(ranks))


def _shares(plan: Plan, first: VariantKey, routes: Sequence[CascadeRoute]) -> WeightedShares[CascadeRoute | None]:
    rates_qps = [route.cascade.rate_qps for route in routes]
    all_qps = sum(placement.rate_qps for placement in plan.placements if placement.key == first)
    alone_qps = all_qps - sum(rates_qps)
    if alone_qps <= MIN_ALONE_FRAC * all_qps:
        return WeightedShares(routes, rates_qps)
    return WeightedShares([*routes, None], [*rates_qps, alone_qps])
