"""The columns of the model: groups of devices that are alike, and the variants that each may host."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from proteus_cli.control.policies import VariantRule
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.capacity import CapacityStep, capacity_at
from proteus_cli.domain.catalog import Catalog, Family, VariantKey
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.rules import DeviceLimits, Rules, limits_of, unknown_amount, why_not_within
from proteus_cli.errors import UsageError
from proteus_cli.planning.networks import row_bytes


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Devices of equal type, measurements, limits and price, which host the same variants where that matters.

    ``price_per_hour`` is None where it is unknown. ``host`` is the host of the cluster that all of them belong to, None
    where that doesn't matter.
    """

    type: str
    devices: tuple[str, ...]
    profile: Profile
    price_per_hour: float | None
    limits: DeviceLimits
    host: str | None


class Pool(NamedTuple):
    """The choices of one variant of a family, wherever it has the same accuracy."""

    family: int
    variant: str
    accuracy: float


@dataclass(frozen=True, slots=True)
class Choice:
    """One variant on one group of devices: a column of the model.

    ``capacity_steps`` are by the number of hosts. ``accuracy`` is the planned accuracy. ``slo_part`` is the part of the
    SLO that its batches may take: 1 without cascades.
    """

    group: int
    family: int
    measured: VariantProfile
    capacity_steps: tuple[CapacityStep, ...]
    accuracy: float
    slo_part: float = 1.0

    @property
    def key(self) -> VariantKey:
        return self.measured.key

    @property
    def pool(self) -> Pool:
        return Pool(self.family, self.measured.variant, self.accuracy)


def groups_of(
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    rules: Rules,
    apart: Mapping[str, int],
    limited_hosts: Collection[str],
) -> Iterator[DeviceGroup]:
    """The groups of profiled devices (by id), in the order of their first devices.

    Devices with different numbers in ``apart`` are in different groups; devices of ``limited_hosts`` are grouped by
    host.
    """
    measurements: list[tuple[VariantProfile, ...]] = []
    is_by_host = rules.survives == "host"
    limits: dict[tuple[str, str], DeviceLimits] = {}
    named = {pair.device for pair in (*rules.pinned, *rules.banned)} | {each.device for each in rules.reserved}
    alike: dict[object, DeviceGroup] = {}
    devices: dict[object, list[str]] = {}
    for device_id, profile in profiles.items():
        device = profile.device
        named_as = (device.id if device.id in named else "", device.type)  # all that rules can name it by
        if named_as not in limits:
            limits[named_as] = limits_of(device, rules)
        group = DeviceGroup(
            type=device.type,
            devices=(),
            profile=profile,
            price_per_hour=catalog.price_of(device.id, device.type),
            limits=limits[named_as],
            host=device.host if is_by_host or (limited_hosts and device.host in limited_hosts) else None,
        )
        number = _number(measurements, profile.variants)
        key: tuple[object, ...] = (
            number,
            profile.slots,
            device.type,
            device.memory_bytes,
            group.price_per_hour,
            group.limits,
            group.host,
            profile.cascades if rules.cascades else (),
            profile.sharing if rules.is_resident_set else (),
            apart.get(device_id),
        )
        alike.setdefault(key, group)
        devices.setdefault(key, []).append(device_id)
    return (replace(group, devices=tuple(devices[key])) for key, group in alike.items())


def _number(known: list[tuple[VariantProfile, ...]], measured: tuple[VariantProfile, ...]) -> int:
    """A number that equal measurements share; devices with the very same tuple are found without comparing values."""
    for number, each in enumerate(known):
        if each is measured or each == measured:
            return number
    known.append(measured)
    return len(known) - 1


def choices_of(
    catalog: Catalog, groups: Sequence[DeviceGroup], variants: VariantRule, rules: Rules
) -> Iterator[Choice]:
    """The variants that meet their SLO on each group, if all devices serve the family, fit it and are allowed."""
    known: dict[tuple[int, int], tuple[CapacityStep, ...]] = {}
    devices, targets = sum(len(group.devices) for group in groups), rules.planned_targets(catalog.slo_targets())
    for g, group in enumerate(groups):
        measured_of = {(measured.family, measured.variant): measured for measured in group.profile.variants}
        for f, family in enumerate(catalog.families):
            found = [measured_of.get((family.name, variant.name)) for variant in family.variants]
            for measured in _allowed([each for each in found if each is not None], variants):
                key = id(measured), group.profile.slots
                if key not in known:
                    known[key] = rules.capacity_steps(targets[family.name], group.profile.points_of(measured))
                is_in_time = capacity_at(known[key], devices).qps > 0
                if is_in_time and _may_host(group, family, measured, targets[family.name], rules):
                    yield Choice(g, f, measured, known[key], measured.accuracy)


def _may_host(group: DeviceGroup, family: Family, measured: VariantProfile, target: SloTarget, rules: Rules) -> bool:
    is_pinned = measured.key in group.limits.pinned  # so it is hosted where no cascade begins with it, too
    least = rules.min_accuracy_alone(family.name) if is_pinned else rules.min_accuracy_hosted(family.name)
    return (
        group.limits.allows(measured.key)
        and measured.accuracy >= least
        and memory_frac(group.profile, measured) <= 1
        and why_not_within(measured, group.profile, target, group.price_per_hour, rules) is None
    )


def memory_frac(profile: Profile, measured: VariantProfile) -> float:
    """The part of a device's memory that a variant takes; 0 where either size is unknown."""
    memory_bytes = profile.device.memory_bytes
    return measured.memory_with(profile.slots) / memory_bytes if memory_bytes > 0 else 0.0


def network_frac_s(group: DeviceGroup, choice: Choice, limits: Mapping[str, float]) -> float:
    """The part of its host's network that one query per second of a choice takes; 0 without a limit."""
    limit = limits.get(group.host) if group.host is not None else None
    return row_bytes(group.profile, choice.measured.family) / limit if limit is not None else 0.0


def _allowed(measured: Sequence[VariantProfile], rule: VariantRule) -> Sequence[VariantProfile]:
    if rule == "all" or not measured:
        return measured
    pick = max if rule == "most-accurate" else min
    return [pick(measured, key=lambda variant: variant.accuracy)]


def require_known(groups: Sequence[DeviceGroup], choices: Sequence[Choice], rules: Rules) -> None:
    """Raise `UsageError` where the rules need a price, a power or a memory that is unknown."""
    if rules.budget_cost is not None or rules.minimize == "cost":
        unpriced = dict.fromkeys(group.type for group in groups if group.price_per_hour is None)
        if unpriced:
            raise _no_price(unpriced)
    is_powered = rules.budget_w is not None or rules.minimize == "power"
    for choice in choices:
        group, measured = groups[choice.group], choice.measured
        where = f"`{measured.variant}` on `{group.type}`"
        if is_powered and measured.power_w is None:
            raise _no_power(where)
        is_unknown = measured.memory_bytes == 0 or group.profile.device.memory_bytes == 0
        if rules.residency == "memory" and is_unknown:
            raise UsageError(
                f"The profile doesn't say how much memory {where} takes, or has.",
                hint="import `memory_bytes` and `device_memory_bytes`, or give a number: `--residency 2`",
            )


def require_amounts(catalog: Catalog, profiles: Mapping[str, Profile], rules: Rules) -> None:
    """Raise `UsageError` where a family counts energy or money, and no device knows what its variants take of it.

    Devices that don't know, of several, answer none of its queries.
    """
    for family in sorted(rules.families_that_count("energy") | rules.families_that_count("cost")):
        measured = [(each, profile.device) for profile in profiles.values() for each in profile.variants]
        mine = [(each, device, catalog.price_of(device.id, device.type)) for each, device in measured]
        mine = [known for known in mine if known[0].family == family]
        if not mine or any(unknown_amount(each, price, rules) is None for each, _, price in mine):
            continue
        if all(each.power_w is None for each, _, _ in mine) and family in rules.families_that_count("energy"):
            raise _no_power(f"`{mine[0][0].variant}` on `{mine[0][1].type}`")
        raise _no_price(dict.fromkeys(device.type for _, device, price in mine if price is None))


def _no_price(device_types: Iterable[str]) -> UsageError:
    return UsageError(
        f"No price per hour is known of {', '.join(f'`{name}`' for name in device_types)}.",
        hint="the table [price_per_hour] of the catalog gives it by device type or id",
    )


def _no_power(where: str) -> UsageError:
    return UsageError(f"The profile knows no power of {where}.", hint="give `power_w` in an imported profile")
