"""Which newcomers of a variant go by which cascade of the plan in force, and what first stages defer of them."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate

from proteus_cli.control.decision import CascadeRoute, FirstStage, Host
from proteus_cli.control.dispatch.checks import checker_of
from proteus_cli.control.dispatch.queues.quota import WeightedShares
from proteus_cli.control.replanning.deferral import KEEP_S, DeferralWatch
from proteus_cli.control.replanning.disagreement import DisagreementWatch
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.profile.deferral import MeasuredDeferral
from proteus_cli.domain.request import Bounds, Request
from proteus_cli.domain.stages.cascade import CascadePoint, accuracy_by_level

MIN_ALONE_FRAC = 1e-9
"""A smaller part of a variant's rate, that no cascade takes, is an error of rounding."""

RESERVED_FRAC = 0.2
"""Of the room in the queue of a second stage, what is kept from the surest queries that are deferred to it.

Of calls that share a line, a small reserve of the line for the more valuable ones is known to be nearly as good as the
best rule (trunk reservation: R. L. Miller, A queueing reward system with several customer classes, 1969). `python -m
benchmarks.cascades` compares it with none."""


class Cascades:
    """Shares the newcomers of first stages among their cascades, as the plan says: exactly, and without randomness.

    What a first stage gets beyond the rates of its cascades is answered by it alone. All rows of a request go the same
    way. While no plan had cascades, and no request `Bounds`, nothing was ``ever_in_use``: no request goes by any or is
    deferred, and nothing needs to be asked. ``by_first`` has those of the plan by first variant, those that get the
    most first. ``watches`` has what first stages of this plan, and of plans before, were seen to defer, and
    ``disagreements``, by first stage and variant that checked, what came of checks.
    """

    def __init__(self) -> None:
        self.ever_in_use = False
        self.watches: dict[VariantKey, DeferralWatch] = {}
        self.disagreements: dict[tuple[VariantKey, VariantKey], DisagreementWatch] = {}
        self.in_use: tuple[CascadeRoute, ...] = ()
        self._shares: dict[VariantKey, WeightedShares[CascadeRoute | None]] = {}
        self.by_first: dict[VariantKey, tuple[CascadeRoute, ...]] = {}

    def use(self, plan: Plan, hosted: Sequence[Host]) -> None:
        """Go by this plan, which places ``hosted``, from now on."""
        self.ever_in_use = self.ever_in_use or bool(plan.cascades)
        routes = _routes(plan, hosted)
        self.in_use = tuple(route for of_first in routes.values() for route in of_first)
        self._shares = {first: _shares(plan, first, found) for first, found in routes.items()}
        self.by_first = {
            first: tuple(sorted(found, key=lambda route: route.cascade.rate_qps, reverse=True))
            for first, found in routes.items()
        }
        for first, found in routes.items():
            stage, used, watch = found[0].stage, {route.cut for route in found}, self.watches.get(first)
            if watch is None or watch.stage != stage:
                self.watches[first] = DeferralWatch(stage, used)
                self._forget_evidence(first)
            else:
                watch.used = frozenset(used)

    def route(self, request: Request, hosted: Host) -> CascadeRoute | None:
        """The way of a request that ``hosted`` has answered in time; None: the answer is sent, however sure it is.

        It takes its share of the cascades by that: ask once.
        """
        shares = self._shares.get(hosted.key)
        if shares is None or request.is_deferred:
            return None
        if request.bounds is None:
            return shares.next(request.rows)
        return self._bounded(request, request.bounds, hosted)

    def _bounded(self, request: Request, bounds: Bounds, hosted: Host) -> CascadeRoute | None:
        """The way of a request with bounds: that of others, or, where it needs a cascade, the one that gets most.

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

        The surer the first stage is, the less is it worth to ask the second. So under pressure, from one query to the
        next, the threshold falls to where the second stage can make the rest.
        """
        return 1.0 - RESERVED_FRAC * min(level / route.cut, 1.0) if route.cut else 1.0

    def saw(self, stage: FirstStage, levels: Iterable[int], now_s: float) -> None:
        """Count the levels of the rows that a first stage has answered, for a request that goes by a cascade."""
        watch = self.watches[stage.key]
        if watch.stage is stage or watch.stage == stage:
            for level in levels:
                watch.saw(level, 1, now_s)

    def compared(self, route: CascadeRoute, *, disagrees: bool) -> bool:
        """A sure answer was checked; True where the confidence of the first stage drifts from now on, or no longer."""
        if route.checker is None:
            return False
        pair = route.stage.key, route.checker.key
        watch = self.disagreements.get(pair)
        if watch is None:
            watch = self.disagreements[pair] = DisagreementWatch()
        return watch.saw(disagrees, route.checker.expected)

    def disagreement(self, route: CascadeRoute) -> DisagreementWatch | None:
        """What came of the checks of a first stage by the variant that checks this cascade; None: there were none."""
        return None if route.checker is None else self.disagreements.get((route.stage.key, route.checker.key))

    def checks_of(self, family: str) -> tuple[float | None, bool]:
        """Which part of the checks of a family's cascades disagreed (None: there were none), and whether any drifts."""
        watches = [self.disagreement(route) for route in self.in_use if route.cascade.family == family]
        found = {id(watch): watch for watch in watches if watch is not None}.values()  # cascades share one
        checked = sum(watch.checked for watch in found)
        disagreed = sum(watch.disagreed for watch in found) / checked if checked else None
        return disagreed, any(watch.drifts for watch in found)

    def forget(self, keys: AbstractSet[VariantKey]) -> None:
        """Forget variants that are gone for good."""
        self.watches = {key: watch for key, watch in self.watches.items() if key not in keys}
        self.disagreements = {pair: watch for pair, watch in self.disagreements.items() if keys.isdisjoint(pair)}

    def _forget_evidence(self, first: VariantKey) -> None:
        """The first stage is another model, or was profiled anew."""
        for (of, _), watch in self.disagreements.items():
            if of == first:
                watch.forget_evidence()

    def measured(self, now_s: float) -> tuple[MeasuredDeferral, ...]:
        """What plans are to count on in place of the profiles, now."""
        used = {route.stage.key for route in self.in_use}
        return tuple(
            watch.measured
            for key, watch in sorted(self.watches.items())
            if watch.measured is not None and (key in used or now_s - watch.last_s < KEEP_S)
        )

    def news(self) -> list[str]:
        """What plans count on anew since this was last asked, for people."""
        found = []
        for watch in self.watches.values():
            if watch.news is not None:
                found.append(watch.news)
                watch.news = None
        return found


def _routes(plan: Plan, hosted: Sequence[Host]) -> Mapping[VariantKey, list[CascadeRoute]]:
    """The cascades of a plan, by first variant."""
    accuracy = dict[VariantKey, float]()
    for host in hosted:  # of several device types the lowest, as in plans
        accuracy[host.key] = min(host.accuracy, accuracy.get(host.key, host.accuracy))
    points: dict[VariantKey, set[tuple[float, float]]] = {}
    for each in plan.cascades:
        points.setdefault(VariantKey(each.family, each.first), set()).add(_place(each.point))
    profiled = {id(each): each for host in hosted for each in host.cascades}.values()
    for known in profiled:
        points.setdefault(VariantKey(known.family, known.first), set()).update(map(_place, known.points))
    stages = {key: _stage(key, sorted(found)) for key, found in points.items()}
    routes: dict[VariantKey, list[CascadeRoute]] = {}
    for cascade in plan.cascades:
        first, second = (VariantKey(cascade.family, variant) for variant in (cascade.first, cascade.second))
        cut = sorted(points[first]).index(_place(cascade.point))
        pair = (cascade.family, cascade.first, cascade.second)
        known_points = [each.points for each in profiled if (each.family, each.first, each.second) == pair]
        own = next((each for each in known_points if _place(cascade.point) in map(_place, each)), (cascade.point,))
        by_level = accuracy_by_level(own, stages[first].thresholds)
        checker = checker_of(cascade, accuracy, profiled)
        route = CascadeRoute(cascade, accuracy[second], stages[first], cut, *by_level, checker)
        routes.setdefault(first, []).append(route)
    return routes


def _place(point: CascadePoint) -> tuple[float, float]:
    return point.threshold, point.rank


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
