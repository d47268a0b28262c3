"""The limits of a plan and their prices, found by planning again without each of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from msgspec import field
from msgspec.structs import replace as replace_fields

from proteus_cli.domain.base import Value
from proteus_cli.domain.batch_times import sharing_factor
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import host_of
from proteus_cli.domain.fleet import as_device
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.profile_changes import best_accuracy, relative
from proteus_cli.errors import NoFeasiblePlan, NoPlanInTime
from proteus_cli.planning.analysis.conflict import without_each
from proteus_cli.planning.networks import limit_in_words, limits_of_hosts, without_limits
from proteus_cli.planning.planner import Planner
from proteus_cli.progress import Advance
from proteus_cli.units import format_rate

LimitKind = Literal["demand", "device", "rule", "network", "sharing"]

MORE_FRAC = 0.1  # of a family's demand: the increase that is priced
MULTIPLE_STEPS = 12  # halvings: the multiple is exact to a few thousandths
NOTABLE_POINTS, NOTABLE_QPS, NOTABLE_SPENT = 0.005, 1e-3, 1e-6  # smaller changes are rounding


class FamilyExplanation(Value, frozen=True):
    """A plan's figures for one family; accuracies are None where no query is served.

    ``variants``: how many devices host each. ``best_accuracy``: of its best variant, whatever it costs.
    """

    family: str
    demand_qps: float
    served_qps: float
    unserved_qps: float
    capacity_qps: float
    variants: dict[str, int]
    effective_accuracy: float | None
    best_accuracy: float
    relative_accuracy: float | None


class DeviceExplanation(Value, frozen=True, omit_defaults=True):
    """Devices of one type that host the same variants and are equally busy; ``busy``: the part of their time.

    ``slower``: by variant, how many times as long its largest batches take as alone, where the others cost it time;
    ``sharing``: the part of the devices' time that this takes.
    """

    devices: tuple[str, ...]
    type: str
    hosts: tuple[str, ...]
    busy: float
    slower: dict[str, float] = field(default_factory=dict)
    sharing: float = 0.0


class Price(Value, frozen=True):
    """The effect of changing one demand, device, rule, network or the cost of sharing (``what``, in words).

    ``accuracy_points``: change of the relative accuracy, None where either plan serves nothing. ``unserved_qps``: the
    increase of unserved demand. ``spent``: the increase of the minimised resource, per hour or in watts; None where
    none is minimised. ``is_possible``: whether there is a plan then, None where the time limit leaves that open.
    ``is_limited``: the time limit ended the solve, so that there may be a better plan than the one that was found, if
    any was.
    """

    what: str
    kind: LimitKind
    is_possible: bool | None
    accuracy_points: float | None = None
    unserved_qps: float = 0.0
    spent: float | None = None
    is_limited: bool = False

    @property
    def is_notable(self) -> bool:
        """Whether it changes more than rounding does."""
        changes = (abs(self.accuracy_points or 0.0) >= NOTABLE_POINTS, abs(self.unserved_qps) >= NOTABLE_QPS)
        return not self.is_possible or any(changes) or abs(self.spent or 0.0) >= NOTABLE_SPENT


class Explanation(Value, frozen=True):
    """``max_multiple``: the largest multiple of the demand that could be served, without headroom (0: not any).

    ``max_multiple_is_lower_bound``: more may be possible, as the time limit ended a solve for more.
    """

    families: tuple[FamilyExplanation, ...]
    devices: tuple[DeviceExplanation, ...]
    prices: tuple[Price, ...]
    max_multiple: float
    max_multiple_is_lower_bound: bool


def explain(planner: Planner, plan: Plan, *, progress: Advance = lambda _now, _done_frac: None) -> Explanation:
    """Explain a plan that ``planner`` made.

    Takes a solve for each family, device type, rule and limited network, and up to three for cascades and sharing.
    """
    questions = list(_questions(planner, plan))
    prices = []
    for number, question in enumerate(questions):
        progress(question.what, number / (len(questions) + 1))
        prices.append(_price(question, plan))
    multiple = largest_multiple(planner, plan.demand_qps)
    return Explanation(
        families=tuple(_families(planner, plan)),
        devices=tuple(_devices(planner, plan)),
        prices=tuple(price for price in prices if price.is_notable),
        max_multiple=multiple.value,
        max_multiple_is_lower_bound=multiple.is_lower_bound,
    )


@dataclass(frozen=True, slots=True)
class LargestMultiple:
    """The largest multiple of a demand that is known to be possible.

    ``is_lower_bound``: more may be, as the time limit ended a solve for more.
    """

    value: float
    is_lower_bound: bool


def max_multiple(planner: Planner, demand_qps: Demand) -> float:
    """The value of `largest_multiple`."""
    return largest_multiple(planner, demand_qps).value


def largest_multiple(planner: Planner, demand_qps: Demand) -> LargestMultiple:
    """The largest multiple of a demand that can be served without headroom, exact to a few thousandths.

    It is 0 where no multiple can be served, and infinite where the demand is zero.
    """
    if sum(demand_qps.values()) <= 0:
        return LargestMultiple(float("inf"), is_lower_bound=False)
    bare = planner.with_changes(headroom=1.0)
    answers: dict[float, bool | None] = {}

    def fits(multiple: float) -> bool:
        answers[multiple] = bare.serves_all({name: qps * multiple for name, qps in demand_qps.items()})
        return answers[multiple] is True

    low, high = 0.0, 1.0
    while fits(high):
        low, high = high, 2 * high
    if low == 0.0:
        while high > MORE_FRAC**6 and not fits(high / 2):
            high /= 2
        low = high / 2 if fits(high / 2) else 0.0
    for _ in range(MULTIPLE_STEPS if low > 0 else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    least_refused = min(multiple for multiple, is_served in answers.items() if not is_served)
    return LargestMultiple(low, is_lower_bound=answers[least_refused] is None)


def _families(planner: Planner, plan: Plan) -> Iterator[FamilyExplanation]:
    best = best_accuracy(planner.profiles.values())
    for family, demand_qps in plan.demand_qps.items():
        hosts = [placement for placement in plan.placements if placement.family == family]
        accuracy = planner.mean_accuracy(hosts, [each for each in plan.cascades if each.family == family])
        yield FamilyExplanation(
            family=family,
            demand_qps=demand_qps,
            served_qps=plan.served_qps[family],
            unserved_qps=plan.unserved_qps[family],
            capacity_qps=plan.capacity_qps(family),
            variants=dict(Counter(placement.variant for placement in hosts)),
            effective_accuracy=accuracy,
            best_accuracy=best.get(family, 0.0),
            relative_accuracy=relative(accuracy, best[family]) if accuracy is not None else None,
        )


def _devices(planner: Planner, plan: Plan) -> Iterator[DeviceExplanation]:
    alike: dict[tuple[str, tuple[str, ...], float], list[str]] = {}
    for device, placements in plan.by_device().items():
        busy = sum(_busy_frac(planner, p, placements) for p in placements)
        hosts = tuple(p.variant for p in placements)
        alike.setdefault((planner.profiles[device].device.type, hosts, round(busy, 6)), []).append(device)
    for (kind, hosts, busy), devices in alike.items():
        placed = plan.by_device()[devices[0]]
        slower = {p.variant: by for p in placed if (by := _times_as_long(planner, p, placed)) > 1}
        added = (_busy_frac(planner, p, placed) * (1 - 1 / slower[p.variant]) for p in placed if p.variant in slower)
        yield DeviceExplanation(
            devices=tuple(devices), type=kind, hosts=hosts, busy=busy, slower=slower, sharing=sum(added)
        )


def _busy_frac(planner: Planner, placement: Placement, placed: Sequence[Placement]) -> float:
    """The part of its device's time that a placement takes, among all that are placed there."""
    others = {each.key for each in placed} - {placement.key}
    return (placement.rate_qps + placement.deferred_qps) / planner.capacity_qps(placement, others)


def _times_as_long(planner: Planner, placement: Placement, placed: Sequence[Placement]) -> float:
    others = {each.key for each in placed} - {placement.key}
    return sharing_factor(planner.profiles[placement.device].sharing, placement.key, others, placement.max_batch)


@dataclass(frozen=True, slots=True)
class _Question:
    """One demand, device, rule or network that is changed, and the planner and demand with that change."""

    what: str
    kind: LimitKind
    planner: Planner
    demand_qps: Demand


def _questions(planner: Planner, plan: Plan) -> Iterator[_Question]:
    for family, qps in plan.demand_qps.items():
        if qps > 0:
            more_qps = _rounded(qps * MORE_FRAC)
            demand = {**plan.demand_qps, family: qps + more_qps}
            yield _Question(f"{format_rate(more_qps)} more of {family}", "demand", planner, demand)
    for kind, devices in plan.fleet.items():
        more, host = f"one more {kind}", host_of(devices[0])
        another = as_device(planner.profiles[devices[0]], f"{host}/{more}" if host else more)
        yield _Question(more, "device", _with_device(planner, another, devices[0]), plan.demand_qps)
    for text, rules in without_each(planner.rules):
        yield _Question(f"without “{text}”", "rule", planner.with_changes(rules=rules), plan.demand_qps)
    if planner.rules.cascades:
        plain = planner.with_changes(rules=replace_fields(planner.rules, cascades=False))
        yield _Question("without cascades", "rule", plain, plan.demand_qps)
    if planner.rules.is_resident_set:
        unshared = planner.with_changes(rules=replace_fields(planner.rules, residency=1))
        yield _Question("with one variant on each device", "rule", unshared, plan.demand_qps)
    for host, limit in limits_of_hosts(planner.catalog, planner.profiles, planner.rules).items():
        unlimited = planner.with_changes(profiles=without_limits(planner.profiles, {host}))
        yield _Question(f"without “{limit_in_words(host, limit)}”", "network", unlimited, plan.demand_qps)
    if planner.rules.is_resident_set and any(profile.sharing for profile in planner.profiles.values()):
        free = {device: replace_fields(profile, sharing=()) for device, profile in planner.profiles.items()}
        yield _Question("if sharing cost no time", "sharing", planner.with_changes(profiles=free), plan.demand_qps)


def _with_device(planner: Planner, another: Profile, like: str) -> Planner:
    """The planner with another device, which costs as much as one ``like`` it."""
    name, catalog = another.device.id, planner.catalog
    price = catalog.price_of(like, another.device.type)
    prices = catalog.price_per_hour if price is None else {**catalog.price_per_hour, name: price}
    return planner.with_changes(
        profiles={**planner.profiles, name: another}, catalog=replace_fields(catalog, price_per_hour=prices)
    )


def _price(question: _Question, plan: Plan) -> Price:
    try:
        changed = question.planner(question.demand_qps)
    except NoPlanInTime:
        return Price(what=question.what, kind=question.kind, is_possible=None, is_limited=True)
    except NoFeasiblePlan:
        return Price(what=question.what, kind=question.kind, is_possible=False)
    is_minimised = plan.rules.minimize is not None
    more_unserved_qps = changed.shortfall_qps - plan.shortfall_qps
    return Price(
        what=question.what,
        kind=question.kind,
        is_possible=True,
        accuracy_points=_points(plan, changed, is_more=question.kind == "demand"),
        unserved_qps=more_unserved_qps if abs(more_unserved_qps) >= NOTABLE_QPS else 0.0,
        spent=question.planner.spent(changed) - question.planner.spent(plan) if is_minimised else None,
        is_limited=changed.solver.status != "optimal",
    )


def _points(before: Plan, after: Plan, *, is_more: bool) -> float | None:
    """Points of relative accuracy won. For more demand: the loss of all queries, old and new, per query before.

    The mean over more queries would change even where the new ones are just of a more accurate family.
    """
    if before.relative_accuracy is None or after.relative_accuracy is None:
        return None
    if not is_more:
        return 100 * (after.relative_accuracy - before.relative_accuracy)
    served_qps, then_qps = sum(before.served_qps.values()), sum(after.served_qps.values())
    lost_qps, then_lost_qps = (1 - before.relative_accuracy) * served_qps, (1 - after.relative_accuracy) * then_qps
    return 100 * (lost_qps - then_lost_qps) / served_qps


def _rounded(qps: float) -> float:
    """To one significant digit."""
    return float(f"{qps:.0e}")
