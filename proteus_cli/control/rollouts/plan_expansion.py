"""Plans with two versions of a variant, during a roll-out.

The planner knows only the old version. Its plan is *expanded*: the new version is placed on each device of the old
version and gets a part of the rate. Both together keep the device time that the old version had, and grow by the same
factor. The planner adds the extra time of a slower new version to the old one (`blended`), so this time is enough.
Where the new version has no room, the old one keeps its placement, and the new one gets more of the rates elsewhere.
`contracted` is the inverse.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import NamedTuple

import msgspec

from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.batch_times import beside
from proteus_cli.domain.capacity import capacity_at
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Point, Profile
from proteus_cli.domain.rollouts import VersionPair
from proteus_cli.domain.rules import limits_of, why_not_within

PriceOf = Callable[[str, str], float | None]
"""The price per hour of a device, by id and type; None: unknown."""
_TIMES = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s")


def _no_price(_device: str, _device_type: str) -> None:
    return None


class Expansion(NamedTuple):
    """A plan with both versions. ``without``: by device with the old version alone, the reason."""

    plan: Plan
    without: Mapping[str, str]


def expanded(
    plan: Plan,
    pair: VersionPair,
    profiles: Mapping[str, Profile],
    target: SloTarget,
    broken: Collection[tuple[str, str, str]] = (),
    price_of: PriceOf = _no_price,
) -> Expansion:
    """Add the new version to a plan; ``broken`` engines (device, family, variant) must not be placed.

    A plan with a cascade of the old version stays as it is: one stage must not have two versions.
    """
    of_old = {each.device: each for each in plan.placements if each.key == pair.old_key}
    batches, without = dict[str, tuple[int, int]](), dict[str, str]()
    for device, old in of_old.items():
        found = _batches(old, plan, pair, profiles[device], target, price_of)
        if (device, *pair.new_key) in broken:
            without[device] = "it is broken there"
        elif isinstance(found, str):
            without[device] = found
        else:
            batches[device] = found
    both_qps = sum(of_old[device].rate_qps for device in batches)
    old_qps = sum(old.rate_qps for old in of_old.values())
    part = min(pair.share * old_qps / both_qps, 1.0) if both_qps > 0 else pair.share
    placements = list[Placement]()
    for each in plan.placements:
        if each.key == pair.old_key and each.device in batches:
            of_old_rows, of_new_rows = batches[each.device]
            old = msgspec.structs.replace(each, max_batch=of_old_rows)
            nothing = {"rate_qps": 0.0, "share": 0.0, "deferred_qps": 0.0}
            new = msgspec.structs.replace(each, variant=pair.new, max_batch=of_new_rows, **nothing)
            placements += _divided(plan, old, new, part, profiles[each.device])
        else:
            placements.append(each)
    return Expansion(_with_placements(plan, placements, pair, profiles), without)


def contracted(plan: Plan, pair: VersionPair, profiles: Mapping[str, Profile]) -> Plan:
    """The plan with the old version alone on devices with both, at the rates and the time of both."""
    old, new = (
        {each.device: each for each in plan.placements if each.key == key} for key in (pair.old_key, pair.new_key)
    )
    joined = {
        device: _divided(plan, old[device], new[device], 0.0, profiles[device])[0] for device in old.keys() & new.keys()
    }
    placements = [
        joined[each.device] if each.key == pair.old_key and each.device in joined else each
        for each in plan.placements
        if each.key != pair.new_key or each.device not in joined
    ]
    return _with_placements(plan, placements, pair, profiles)


def replaced(
    plan: Plan,
    pair: VersionPair,
    profiles: Mapping[str, Profile],
    target: SloTarget,
    broken: Collection[tuple[str, str, str]] = (),
    price_of: PriceOf = _no_price,
) -> Plan:
    """The plan with the new version in place of the old one wherever it has room."""
    whole = replace(pair, share=1.0)
    both = expanded(contracted(plan, whole, profiles), whole, profiles, target, broken, price_of).plan
    new = {each.device for each in both.placements if each.key == whole.new_key}
    left = tuple(each for each in both.placements if each.key != whole.old_key or each.device not in new)
    return msgspec.structs.replace(both, placements=left)


def blended(profile: Profile, pair: VersionPair) -> Profile:
    """The profile for the planner: the old version takes the mean time of both, if the new one is slower.

    It is without the new version, and without cascades of either: during a roll-out one variant answers each query.
    """
    old, new = profile.of(*pair.old_key), profile.of(*pair.new_key)
    variants = tuple(each for each in profile.variants if each is not new)
    if old is not None and new is not None and new.points and pair.share > 0:
        mixed = msgspec.structs.replace(
            old,
            points=tuple(_mixed(each, new.points, pair.share) for each in old.points),
            concurrent=tuple(_mixed(each, new.points_at(each.slots), pair.share) for each in old.concurrent),
        )
        variants = tuple(mixed if each is old else each for each in variants)
    versions = {pair.old, pair.new}
    cascades = tuple(
        each
        for each in profile.cascades
        if each.family != pair.family or versions.isdisjoint((each.first, each.second))
    )
    return msgspec.structs.replace(profile, variants=variants, cascades=cascades)


def _mixed(point: Point, of_new: Sequence[Point], share: float) -> Point:
    """A point of the old version, with ``share`` of the extra time of the new one; without points of that, the same."""
    if not of_new:
        return point
    own = {name: getattr(point, name) for name in _TIMES}
    times = {
        name: own_s + share * max(LatencyTable(of_new, attrgetter(name))(point.batch) - own_s, 0.0)
        for name, own_s in own.items()
    }
    return msgspec.structs.replace(point, **times, qps=point.slots * point.batch / times["mean_s"])


def _batches(
    placement: Placement, plan: Plan, pair: VersionPair, profile: Profile, target: SloTarget, price_of: PriceOf
) -> tuple[int, int] | str:
    """The largest batches of the old version and of the new one beside it; or the reason against the new one."""
    new, old = profile.of(*pair.new_key), profile.of(*pair.old_key)
    if any(placement.variant in {each.first, each.second} for each in plan.cascades if each.family == placement.family):
        return "the plan has a cascade of the old version"
    if new is None or old is None or not profile.points_of(new) or not profile.points_of(old):
        return "it was not measured there"
    if not limits_of(profile.device, plan.rules).allows(pair.new_key):
        return "it is banned there"
    hosts = sum(each.family == pair.family for each in plan.placements)
    held = {each.key for each in plan.placements if each.device == placement.device}
    planned = plan.rules.planned_target(pair.family, target)
    points = [profile.points_of(beside(profile, each, held)) for each in (old, new)]
    of_old, of_new = (capacity_at(plan.rules.capacity_steps(planned, each), hosts).max_batch for each in points)
    if not of_new:
        bound = "SLO there" if planned.slo_s == target.slo_s else "family's policy"
        return f"it is too slow for the {bound}"
    least = plan.rules.min_accuracy_alone(new.family)
    if new.accuracy < least:
        return f"its accuracy, {new.accuracy:.4g}, is below {least:g}, which the family must have"
    why_not = why_not_within(new, profile, planned, price_of(placement.device, profile.device.type), plan.rules)
    if why_not is not None:
        return why_not
    if 0 < profile.device.memory_bytes < profile.needed_bytes(held) + new.memory_with(profile.slots):
        return "the device has no memory for both versions"
    return of_old or placement.max_batch, of_new


def _divided(plan: Plan, old: Placement, new: Placement, part: float, profile: Profile) -> tuple[Placement, Placement]:
    """Both versions of a device, with ``part`` of their rates for the new one, in the time that others leave them."""
    residents = [each for each in plan.placements if each.device == old.device]
    held = {each.key for each in residents}

    def alone_qps(placement: Placement) -> float:
        """The rate of a placement with all of the device's time; infinite: unknown."""
        measured = profile.of(*placement.key)
        points = profile.points_of(beside(profile, measured, held)) if measured is not None else ()
        if not points:
            return math.inf
        table = LatencyTable(points, lambda point: point.latency_s(plan.rules.capacity))
        return profile.slots * placement.max_batch / table(placement.max_batch)

    def given(placement: Placement, part: float) -> Placement:
        amounts = {"rate_qps": rate_qps, "share": share, "capacity_qps": capacity_qps}
        return msgspec.structs.replace(placement, **{name: part * amount for name, amount in amounts.items()})

    time_frac = 1.0  # if no resident has a rate, each may have all of the time
    if any(each.rate_qps + each.deferred_qps > 0 for each in residents):
        others = (each for each in residents if each.key not in {old.key, new.key})
        time_frac = max(1.0 - sum(each.capacity_qps / alone_qps(each) for each in others), 0.0)
    row_s = (1 - part) / alone_qps(old) + part / alone_qps(new)
    capacity_qps = time_frac / row_s if row_s > 0 else math.inf
    rate_qps, share = old.rate_qps + new.rate_qps, old.share + new.share
    return given(old, 1 - part), given(new, part)


def _with_placements(
    plan: Plan, placements: Iterable[Placement], pair: VersionPair, profiles: Mapping[str, Profile]
) -> Plan:
    """The plan with other placements, and the accuracy that their rates of the new version give it."""
    changed = msgspec.structs.replace(plan, placements=tuple(placements))
    before, after = (sum(each.rate_qps for each in of.placements if each.key == pair.new_key) for of in (plan, changed))
    all_qps = sum(each.rate_qps for each in changed.placements)
    if plan.effective_accuracy is None or after == before or not all_qps:
        return changed
    gain = _accuracy(pair.new_key, profiles) - _accuracy(pair.old_key, profiles)
    accuracy = plan.effective_accuracy + gain * (after - before) / all_qps
    return msgspec.structs.replace(changed, effective_accuracy=min(max(accuracy, 0.0), 1.0))


def _accuracy(key: VariantKey, profiles: Mapping[str, Profile]) -> float:
    found = (profile.of(*key) for profile in profiles.values())
    return next((measured.accuracy for measured in found if measured is not None), 0.0)
