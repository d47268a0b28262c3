"""Plans with two versions of a variant, while one of them is rolled out.

The planner knows the old version alone. Its plan is *expanded*: on each device that has the old version, the new one is
placed beside it, and gets its part of the rate. Both together have the time of the device that the old one had, and
grow by the same factor. What the new version is slower by, the planner counts as the old one's (`blended`), so that
this time is enough. Where the new version has no room, the old one stays as it was, and the new one gets more of the
rates elsewhere. `contracted` undoes that.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.batch_times import beside
from proteus_cli.domain.capacity import capacity_at
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Point, Profile, VariantProfile
from proteus_cli.domain.rules import Rules, limits_of, why_not_within

PriceOf = Callable[[str, str], float | None]
"""What a device, by id and type, costs per hour; None: unknown."""


def _no_price(_device: str, _device_type: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Twinning:
    """Variants ``old`` and ``new`` of a family; the new one is to get ``share`` of the rates of both."""

    family: str
    old: str
    new: str
    share: float = 0.0

    @property
    def old_key(self) -> VariantKey:
        return VariantKey(self.family, self.old)

    @property
    def new_key(self) -> VariantKey:
        return VariantKey(self.family, self.new)


@dataclass(frozen=True, slots=True)
class Expansion:
    """A plan with both versions. The new one has ``share`` of the rates, which may be less than was asked for.

    ``without``: why devices with the old version are without the new one.
    """

    plan: Plan
    share: float
    without: Mapping[str, str] = field(default_factory=dict)


def expanded(
    plan: Plan,
    twinning: Twinning,
    profiles: Mapping[str, Profile],
    target: SloTarget,
    broken: Collection[tuple[str, str, str]] = (),
    price_of: PriceOf = _no_price,
) -> Expansion:
    """A plan without the new version, with it; ``broken`` engines (device, family, variant) must not be placed.

    A plan with a cascade of the old version stays as it is: its stages must not have two versions.
    """
    of_old = [each for each in plan.placements if each.key == twinning.old_key]
    without, batches = dict[str, str](), dict[str, tuple[int, int]]()
    for placement in of_old:
        fit: tuple[int, int] | str = _batches(placement, plan, twinning, profiles[placement.device], target, price_of)
        if (placement.device, *twinning.new_key) in broken:
            fit = "it is broken there"
        if isinstance(fit, str):
            without[placement.device] = fit
        else:
            batches[placement.device] = fit
    twinned = [placement for placement in of_old if placement.device in batches]
    part = _part_of_rates(twinned, of_old, twinning.share)
    placements: list[Placement] = []
    moved_qps = 0.0
    for placement in plan.placements:
        if placement.key == twinning.old_key and placement.device in batches:
            both = _split(placement, batches[placement.device], part, twinning, _Device(plan, placement, profiles))
            placements += both
            moved_qps += both[1].rate_qps
        else:
            placements.append(placement)
    all_qps = sum(each.rate_qps for each in of_old)
    share = moved_qps / all_qps if all_qps > 0 else (part if twinned else 0.0)
    changed = msgspec.structs.replace(plan, placements=tuple(placements))
    return Expansion(_with_accuracy(changed, moved_qps, twinning, profiles), share, without)


def contracted(plan: Plan, twinning: Twinning, profiles: Mapping[str, Profile]) -> Plan:
    """The plan with the old version alone on devices that have both, where it has what both had."""
    new = {each.device: each for each in plan.placements if each.key == twinning.new_key}
    old = {each.device for each in plan.placements if each.key == twinning.old_key}
    placements: list[Placement] = []
    for placement in plan.placements:
        if placement.key == twinning.old_key and placement.device in new:
            placements.append(_joined(placement, new[placement.device], _Device(plan, placement, profiles)))
        elif placement.key != twinning.new_key or placement.device not in old:
            placements.append(placement)
    moved_qps = sum(each.rate_qps for device, each in new.items() if device in old)
    changed = msgspec.structs.replace(plan, placements=tuple(placements))
    return _with_accuracy(changed, -moved_qps, twinning, profiles)


def replaced(
    plan: Plan,
    twinning: Twinning,
    profiles: Mapping[str, Profile],
    target: SloTarget,
    broken: Collection[tuple[str, str, str]] = (),
    price_of: PriceOf = _no_price,
) -> Plan:
    """The plan with the new version in place of the old one wherever it has room."""
    whole = replace(twinning, share=1.0)
    both = expanded(contracted(plan, whole, profiles), whole, profiles, target, broken, price_of).plan
    new = {each.device for each in both.placements if each.key == whole.new_key}
    left = tuple(each for each in both.placements if each.key != whole.old_key or each.device not in new)
    return msgspec.structs.replace(both, placements=left)


def blended(profile: Profile, twinning: Twinning) -> Profile:
    """What the planner is to count on: where the new version is slower, the old one takes what both take in the mean.

    The new one is left out, and so are cascades of either: while two versions serve, one variant answers each query.
    """
    old, new = profile.of(*twinning.old_key), profile.of(*twinning.new_key)
    variants = tuple(each for each in profile.variants if each is not new)
    if old is not None and new is not None and new.points and twinning.share > 0:
        mixed = _blended(old, new, twinning.share)
        variants = tuple(mixed if each is old else each for each in variants)
    versions = {twinning.old, twinning.new}
    cascades = tuple(
        each
        for each in profile.cascades
        if each.family != twinning.family or versions.isdisjoint((each.first, each.second))
    )
    return msgspec.structs.replace(profile, variants=variants, cascades=cascades)


def _batches(
    placement: Placement, plan: Plan, twinning: Twinning, profile: Profile, target: SloTarget, price_of: PriceOf
) -> tuple[int, int] | str:
    """The largest batches of the old version and of the new one beside it; or why that has no place there."""
    new, old = profile.of(*twinning.new_key), profile.of(*twinning.old_key)
    if any(placement.variant in {each.first, each.second} for each in plan.cascades if each.family == placement.family):
        return "the plan has a cascade of the old version"
    if new is None or old is None or not profile.points_of(new) or not profile.points_of(old):
        return "it was not measured there"
    if not limits_of(profile.device, plan.rules).allows(twinning.new_key):
        return "it is banned there"
    hosts = sum(each.family == twinning.family for each in plan.placements)
    held = {each.key for each in plan.placements if each.device == placement.device}
    planned = plan.rules.planned_target(twinning.family, target)
    points = [profile.points_of(beside(profile, each, held)) for each in (old, new)]
    of_old, of_new = (capacity_at(plan.rules.capacity_steps(planned, each), hosts).max_batch for each in points)
    if not of_new:
        return (
            "it is too slow for the SLO there"
            if planned.slo_s == target.slo_s
            else "it is too slow for the family's policy"
        )
    least = plan.rules.min_accuracy_alone(new.family)
    if new.accuracy < least:
        return f"its accuracy, {new.accuracy:.4g}, is below {least:g}, which the family must have"
    price = price_of(placement.device, profile.device.type)
    if (why_not := why_not_within(new, profile, planned, price, plan.rules)) is not None:
        return why_not
    memory_bytes = profile.device.memory_bytes
    needed_bytes = profile.needed_bytes(each.key for each in plan.placements if each.device == placement.device)
    if 0 < memory_bytes < needed_bytes + new.memory_with(profile.slots):
        return "the device has no memory for both versions"
    return of_old or placement.max_batch, of_new


def _part_of_rates(twinned: Sequence[Placement], of_old: Sequence[Placement], share: float) -> float:
    """What the new version gets of the rates on the devices that have both, so that it gets ``share`` of all."""
    twinned_qps, all_qps = (sum(each.rate_qps for each in placed) for placed in (twinned, of_old))
    return min(share * all_qps / twinned_qps, 1.0) if twinned_qps > 0 else share


class _Device:
    """The device of a placement, as the plan has it."""

    def __init__(self, plan: Plan, placement: Placement, profiles: Mapping[str, Profile]) -> None:
        self._profile, self._rules, self.profiles = profiles[placement.device], plan.rules, profiles
        self.residents = [each for each in plan.placements if each.device == placement.device]

    def alone_qps(self, placement: Placement) -> float:
        """What a placement could answer with all of the device's time, among what is there; infinite: unknown."""
        alone = self._profile.of(*placement.key)
        measured = beside(self._profile, alone, {each.key for each in self.residents}) if alone is not None else None
        points = self._profile.points_of(measured) if measured is not None else ()
        if not points:
            return float("inf")
        return self._profile.slots * placement.max_batch / _table(points, self._rules)(placement.max_batch)

    def time_frac(self, of: Collection[VariantKey]) -> float:
        """The part of its time that variants may take together: what the others may not."""
        if not any(each.rate_qps + each.deferred_qps > 0 for each in self.residents):
            return 1.0  # each may have all of it
        others = sum(each.capacity_qps / self.alone_qps(each) for each in self.residents if each.key not in of)
        return max(1.0 - others, 0.0)


def _split(
    placement: Placement, batches: tuple[int, int], part: float, twinning: Twinning, device: _Device
) -> tuple[Placement, Placement]:
    """A placement of the old version as one of each; batches of the old one are those of its own times."""
    old = msgspec.structs.replace(placement, max_batch=batches[0])
    new = msgspec.structs.replace(placement, variant=twinning.new, max_batch=batches[1], deferred_qps=0.0)
    take_s = (1 - part) / device.alone_qps(old) + part / device.alone_qps(new)
    capacity_qps = device.time_frac({twinning.old_key}) / take_s
    return (
        msgspec.structs.replace(
            old,
            rate_qps=placement.rate_qps * (1 - part),
            share=placement.share * (1 - part),
            capacity_qps=capacity_qps * (1 - part),
        ),
        msgspec.structs.replace(
            new, rate_qps=placement.rate_qps * part, share=placement.share * part, capacity_qps=capacity_qps * part
        ),
    )


def _joined(old: Placement, new: Placement, device: _Device) -> Placement:
    capacity_qps = device.time_frac({old.key, new.key}) * device.alone_qps(old)
    return msgspec.structs.replace(
        old, rate_qps=old.rate_qps + new.rate_qps, share=old.share + new.share, capacity_qps=capacity_qps
    )


def _with_accuracy(plan: Plan, moved_qps: float, twinning: Twinning, profiles: Mapping[str, Profile]) -> Plan:
    """The plan with the accuracy that it has once ``moved_qps`` are answered by the new version."""
    all_qps = sum(each.rate_qps for each in plan.placements)
    if plan.effective_accuracy is None or not moved_qps or not all_qps:
        return plan
    gain = _accuracy(twinning.new_key, profiles) - _accuracy(twinning.old_key, profiles)
    return msgspec.structs.replace(
        plan, effective_accuracy=min(max(plan.effective_accuracy + gain * moved_qps / all_qps, 0.0), 1.0)
    )


def _accuracy(key: VariantKey, profiles: Mapping[str, Profile]) -> float:
    found = (profile.of(*key) for profile in profiles.values())
    return next((measured.accuracy for measured in found if measured is not None), 0.0)


def _table(points: Sequence[Point], rules: Rules) -> LatencyTable:
    return LatencyTable(points, lambda point: point.latency_s(rules.capacity))


def _blended(old: VariantProfile, new: VariantProfile, share: float) -> VariantProfile:
    def mixed(points: Sequence[Point], of_new: Sequence[Point]) -> tuple[Point, ...]:
        return tuple(_mixed(point, of_new, share) for point in points) if of_new else tuple(points)

    slots = {point.slots for point in old.concurrent}
    concurrent = {each: mixed(old.points_at(each), new.points_at(each)) for each in slots}
    places = [(point.batch, point.slots) for point in old.concurrent]
    found = {(point.batch, point.slots): point for points in concurrent.values() for point in points}
    return msgspec.structs.replace(
        old, points=mixed(old.points, new.points), concurrent=tuple(found[place] for place in places)
    )


def _mixed(point: Point, of_new: Sequence[Point], share: float) -> Point:
    def time_s(of: Callable[[Point], float]) -> float:
        later_s = max(LatencyTable(of_new, of)(point.batch) - of(point), 0.0)
        return of(point) + share * later_s

    mean_s = time_s(lambda each: each.mean_s)
    return msgspec.structs.replace(
        point,
        mean_s=mean_s,
        p50_s=time_s(lambda each: each.p50_s),
        p90_s=time_s(lambda each: each.p90_s),
        p95_s=time_s(lambda each: each.p95_s),
        p99_s=time_s(lambda each: each.p99_s),
        qps=point.slots * point.batch / mean_s,
    )
