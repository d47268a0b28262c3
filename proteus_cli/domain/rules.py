"""What a user asks of every plan besides the demand: objectives, limits of devices and variants, budgets.

The rules of a plan that stand in the catalog.

Whether a variant on a device keeps what its family's policy says of the energy and the money of each answer.

As amounts are of the two alone, the planner and the steps of version roll-outs agree on what may answer.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget, is_attainment_target
from proteus_cli.domain.base import Value, is_amount, is_count, require
from proteus_cli.domain.capacity import (
    Capacity,
    CapacityStep,
    capacity,
    capacity_at,
    capacity_by_hosts,
    cost_of,
    max_energy_of,
    points_in_time,
)
from proteus_cli.domain.catalog import Catalog, Preference, VariantKey, name_in_catalog
from proteus_cli.domain.device import Device, host_of
from proteus_cli.domain.profile import LatencyStatistic, Point, Profile, VariantProfile
from proteus_cli.domain.stages.cascade import SLO_PARTS

Resource = Literal["cost", "power"]
Residency = int | Literal["memory"]
AmountBound = Literal["max_latency_s", "max_energy_j", "max_cost_per_million"]
LossUnit = Literal["device", "host"]
"""What is lost at once: a device, or a host of a cluster with all its devices."""


class DeviceVariant(Value, frozen=True, order=True):
    """One variant on some devices. ``device`` is an id, or a type and then means all devices of that type."""

    device: str
    family: str
    variant: str

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)

    @property
    def in_catalog(self) -> "DeviceVariant":
        """The same of the variant as the catalog file calls it."""
        return DeviceVariant(self.device, self.family, name_in_catalog(self.variant))

    def __str__(self) -> str:
        return f"{self.device}:{self.family}/{self.variant}"


class Reserved(Value, frozen=True, order=True):
    """Devices (an id or a type) that only ``family`` may use; nobody where that is None.

    A device that several families reserve is theirs together.
    """

    device: str
    family: str | None = None


class Rules(Value, frozen=True):
    """How to plan, whatever the demand; part of each plan, so that a re-plan obeys them too.

    - ``capacity``: a variant's capacity is its best batch over the batch's latency of that kind;
    - ``slo_fraction``: batches whose latency of that kind is longer than this part of the SLO don't count; None: whose
      p95 leaves too little for the wait before it, which depends on the number of hosts (`slo_fraction`);
    - ``fairness``: serve the largest total, or first make the worst-served family's part as large as possible, then
      the next one's, and so on;
    - ``minimize``: instead serve all demand at the lowest price per hour, or power, and only then accurately;
    - ``residency``: how many variants a device may hold at a time; ``memory``: as many as fit;
    - ``survive``: how many devices may be lost, any of them, without losing capacity for what is served (0 or 1);
      with ``survive_unit`` so many hosts, with all their devices. This machine is the host of its own devices;
    - ``pack``: use as few devices as the rest allows;
    - ``attainment``: the share of every family's queries that must be answered in time; None: as the catalog says;
    - ``min_accuracy``: by family, the least accurate variant that may answer (a fraction), as any stage of a cascade;
    - ``min_expected_accuracy``: by family, the least accuracy that may be expected of an answer, of a variant alone or
      of a whole cascade, whose first variant may be less accurate; left out, there is none;
    - ``max_share``: by family, the largest part of its demand (headroom included) that one device may get;
    - ``budget_w``, ``budget_cost``: the most that the devices in use may draw (watts), or cost per hour;
    - ``prefer``: by family, what its answers should have much of, or take little of; of those left out, accuracy. All
      families' aims are one objective (`planning.model.worths`); those that prefer something else use no cascades;
    - ``max_latency_s``: by family, what batches and the wait before them may take in place of the SLO;
      ``max_energy_j``, ``max_cost_per_million``: what an answer may take of energy in any batch, and so many queries
      cost in full batches (`query_amounts`); left out, there are none;
    - ``cascades``: queries may go through cascades that the profiles know; left out, they may not.
    """

    capacity: LatencyStatistic = "mean"
    slo_fraction: float | None = None
    fairness: Literal["total", "maxmin"] = "total"
    minimize: Resource | None = None
    residency: Residency = 1
    survive: int = 0
    pack: bool = False
    attainment: float | None = None
    min_accuracy: dict[str, float] = msgspec.field(default_factory=dict)
    max_share: dict[str, float] = msgspec.field(default_factory=dict)
    reserved: tuple[Reserved, ...] = ()
    banned: tuple[DeviceVariant, ...] = ()
    pinned: tuple[DeviceVariant, ...] = ()
    budget_w: float | None = None
    budget_cost: float | None = None
    survive_unit: Literal["host"] | UnsetType = UNSET
    cascades: bool | UnsetType = UNSET
    min_expected_accuracy: dict[str, float] | UnsetType = UNSET
    prefer: dict[str, Preference] | UnsetType = UNSET
    max_latency_s: dict[str, float] | UnsetType = UNSET
    max_energy_j: dict[str, float] | UnsetType = UNSET
    max_cost_per_million: dict[str, float] | UnsetType = UNSET

    def __post_init__(self) -> None:
        is_part = self.slo_fraction is None or 0 < self.slo_fraction <= 1
        require(is_part, "slo_fraction must be above 0 and at most 1")
        require(self.residency == "memory" or is_count(self.residency, 1), "residency must be at least 1, or `memory`")
        require(self.survive in {0, 1}, "survive must be 0 or 1")
        is_target = self.attainment is None or is_attainment_target(self.attainment)
        require(is_target, "attainment must be above 0 and below 1")
        for what, floors in (("min_accuracy", self.min_accuracy), ("min_expected_accuracy", self.expected_accuracy)):
            for family, accuracy in floors.items():
                require(0 <= accuracy <= 1, f"{what} of `{family}` must be a fraction from 0 to 1")
        for family, share in self.max_share.items():
            require(0 < share <= 1, f"max_share of `{family}` must be above 0 and at most 1")
        for what, bounds in self.amount_bounds.items():
            for family, bound in bounds.items():
                require(is_amount(bound) and bound > 0, f"{what} of `{family}` must be above zero")
        for budget in (self.budget_w, self.budget_cost):
            require(budget is None or is_amount(budget), "a budget must be a finite number that is not negative")
        # With several variants per device a loss takes capacity from all of them, and each loss asks for another plan.
        require(not self.survive or self.residency == 1, "survive takes one variant per device (residency 1)")

    def capacity_steps(self, target: SloTarget, points: Sequence[Point]) -> tuple[CapacityStep, ...]:
        """The capacity of a variant of which these points were measured, by the number of its family's hosts."""
        if self.slo_fraction is not None:
            in_time = points_in_time(points, self.slo_fraction * target.slo_s, of=self.capacity)
            return (CapacityStep(1, capacity(in_time, of=self.capacity)),) if in_time else ()
        return capacity_by_hosts(tuple(points), target, of=self.capacity)

    def stage_steps(
        self, target: SloTarget, points: Sequence[Point]
    ) -> Iterator[tuple[float, tuple[CapacityStep, ...]]]:
        """Each part of the SLO that plans may give to a variant, the smallest first, with its `capacity_steps`."""
        for part in SLO_PARTS if self.uses_cascades else (1.0,):
            yield part, self.capacity_steps(target.of_part(part), points)

    def capacity_within(
        self, slo_s: float, points: Sequence[Point], hosts: int = 1, attainment: float = DEFAULT_ATTAINMENT
    ) -> Capacity:
        """The capacity of a variant of which these points were measured, where so many hosts serve its family."""
        return capacity_at(self.capacity_steps(SloTarget(slo_s, attainment), points), hosts)

    def with_names(self, rename: Callable[[VariantKey], str]) -> "Rules":
        """The same rules with other names of variants."""

        def renamed(pairs: Sequence[DeviceVariant]) -> tuple[DeviceVariant, ...]:
            return tuple(msgspec.structs.replace(pair, variant=rename(pair.key)) for pair in pairs)

        return msgspec.structs.replace(self, banned=renamed(self.banned), pinned=renamed(self.pinned))

    def with_attainment(self, target: float | None) -> "Rules":
        """The same rules with another attainment target for all families; None: as they are."""
        return self if target is None else msgspec.structs.replace(self, attainment=target)

    def attainment_targets(self, catalog: Catalog) -> Mapping[str, float]:
        """The share of its queries that must be answered in time, by family."""
        if self.attainment is not None:
            return dict.fromkeys(catalog.names, self.attainment)
        return {family.name: family.attainment for family in catalog.families}

    @property
    def expected_accuracy(self) -> Mapping[str, float]:
        """``min_expected_accuracy``; empty where it is left out."""
        return {} if self.min_expected_accuracy is UNSET else self.min_expected_accuracy

    def prefers(self, family: str) -> Preference:
        """What plans aim for in a family."""
        return "accuracy" if self.prefer is UNSET else self.prefer.get(family, "accuracy")

    @property
    def others_preferred(self) -> Mapping[str, Preference]:
        """The families that prefer anything but accuracy, and what."""
        return {} if self.prefer is UNSET else {name: of for name, of in self.prefer.items() if of != "accuracy"}

    def families_that_count(self, amount: Literal["energy", "cost"]) -> frozenset[str]:
        """The families that prefer little of it, or bound it."""
        bounds = self.amount_bounds["max_energy_j" if amount == "energy" else "max_cost_per_million"]
        return frozenset(bounds) | {name for name, of in self.others_preferred.items() if of == amount}

    @property
    def amount_bounds(self) -> Mapping[AmountBound, Mapping[str, float]]:
        """The bounds by name and family; empty where they are left out."""
        named: dict[AmountBound, dict[str, float] | UnsetType] = {
            "max_latency_s": self.max_latency_s,
            "max_energy_j": self.max_energy_j,
            "max_cost_per_million": self.max_cost_per_million,
        }
        return {name: {} if bounds is UNSET else bounds for name, bounds in named.items()}

    def planned_target(self, family: str, target: SloTarget) -> SloTarget:
        """What plans count on for a family: its SLO, or the latency that its policy bounds, and what must be in time.

        ``target`` is what the catalog says.
        """
        slo_s = min(target.slo_s, self.amount_bounds["max_latency_s"].get(family, target.slo_s))
        return SloTarget(slo_s, target.attainment if self.attainment is None else self.attainment)

    def planned_targets(self, targets: Mapping[str, SloTarget]) -> Mapping[str, SloTarget]:
        """What plans count on by family; ``targets`` are what the catalog says."""
        return {family: self.planned_target(family, target) for family, target in targets.items()}

    def min_accuracy_alone(self, family: str) -> float:
        """The accuracy of the least accurate variant of a family that may answer by itself."""
        return max(self.min_accuracy.get(family, 0.0), self.expected_accuracy.get(family, 0.0))

    def min_accuracy_hosted(self, family: str) -> float:
        """The accuracy of the least accurate variant of a family that may be hosted.

        It may be less than `min_accuracy_alone` as the first stage of a cascade; not where a device or host may be
        lost, as each query is answered by one variant then.
        """
        is_stage = self.may_use_cascades(family) and not self.survive
        return self.min_accuracy.get(family, 0.0) if is_stage else self.min_accuracy_alone(family)

    @property
    def survives(self) -> LossUnit | None:
        """What plans survive the loss of, any one of them."""
        unit: LossUnit = "device" if self.survive_unit is UNSET else self.survive_unit
        return unit if self.survive else None

    def unit_of(self, device: str) -> str:
        """What is lost together with a device (by id): its host, or only itself."""
        return host_of(device) if self.survives == "host" else device

    @property
    def uses_cascades(self) -> bool:
        """Queries may go through cascades."""
        return self.cascades is not UNSET and self.cascades

    def may_use_cascades(self, family: str) -> bool:
        """Queries of a family may go through cascades: a means to be accurate, whose energy and cost nothing bounds."""
        counted = self.families_that_count("energy") | self.families_that_count("cost")
        return self.uses_cascades and self.prefers(family) == "accuracy" and family not in counted

    @property
    def is_resident_set(self) -> bool:
        """Devices may hold more than one variant at a time."""
        return self.residency != 1

    @property
    def budgets(self) -> dict[Resource, float]:
        """The budgets that are set."""
        both: dict[Resource, float | None] = {"cost": self.budget_cost, "power": self.budget_w}
        return {name: budget for name, budget in both.items() if budget is not None}

    @property
    def resources(self) -> frozenset[Resource]:
        """The resources that plans are limited or minimised in."""
        return frozenset(self.budgets) | ({self.minimize} if self.minimize is not None else set())

    @property
    def must_serve_all(self) -> bool:
        """Whether all demand must be served: minimising would else serve nothing."""
        return self.minimize is not None


PAPER_RULES = Rules(capacity="p95", slo_fraction=0.5)
"""The paper's (§4): a query may wait for a whole batch before it runs in the next."""


def selects(selector: str, device: Device) -> bool:
    """Whether ``selector`` (an id or a type) means this device."""
    return selector in {device.id, device.type}


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """What the rules say of a device. ``reserved_for``: the only families that may use it, or None."""

    pinned: frozenset[VariantKey]
    banned: frozenset[VariantKey]
    reserved_for: frozenset[str] | None

    def allows(self, key: VariantKey) -> bool:
        """Whether the device may host a variant."""
        return key not in self.banned and (self.reserved_for is None or key.family in self.reserved_for)


def limits_of(device: Device, rules: Rules) -> DeviceLimits:
    """What the rules allow on a device. Where one of them reserves it for no family, it may host nothing."""
    holders = [each.family for each in rules.reserved if selects(each.device, device)]
    families = frozenset(name for name in holders if name is not None and None not in holders)
    return DeviceLimits(
        pinned=frozenset(pair.key for pair in rules.pinned if selects(pair.device, device)),
        banned=frozenset(pair.key for pair in rules.banned if selects(pair.device, device)),
        reserved_for=families if holders else None,
    )


def in_words(rules: Rules) -> str:
    """The objectives in their order, as a sentence for people."""
    serve = "serve the most demand"
    if rules.fairness == "maxmin":
        serve = "serve the largest part of each family's demand, the worst-served first"
    accuracy = "the highest mean accuracy over queries"
    others = [f"{family}: the least {of}" for family, of in rules.others_preferred.items()]
    accuracy += f" ({', '.join(others)})" if others else ""
    first = serve if rules.minimize is None else f"serve all demand at the lowest {rules.minimize}"
    last = ", then the fewest devices" if rules.pack else ""
    return f"{first}, then {accuracy}, then the fewest loads{last}"


def with_catalog(rules: Rules, catalog: Catalog) -> Rules:
    """``rules`` and those of the catalog; where both limit the same, ``rules`` win."""
    floors = {f.name: f.min_accuracy for f in catalog.families if f.min_accuracy is not None}
    expected = {f.name: f.min_expected_accuracy for f in catalog.families if f.min_expected_accuracy is not None}
    shares = {f.name: f.max_share for f in catalog.families if f.max_share is not None}
    reserved = [Reserved(device, f.name) for f in catalog.families for device in f.reserved]
    banned = [DeviceVariant(device, f.name, v.name) for f, v in catalog.variants for device in v.banned]
    pinned = [DeviceVariant(device, f.name, v.name) for f, v in catalog.variants for device in v.pinned]
    return msgspec.structs.replace(
        rules,
        min_accuracy={**floors, **rules.min_accuracy},
        min_expected_accuracy={**expected, **rules.expected_accuracy} or UNSET,
        max_share={**shares, **rules.max_share},
        reserved=tuple(dict.fromkeys((*rules.reserved, *reserved))),
        banned=tuple(dict.fromkeys((*rules.banned, *banned))),
        pinned=tuple(dict.fromkeys((*rules.pinned, *pinned))),
        **_of_policies(rules, catalog),
    )


def _of_policies(rules: Rules, catalog: Catalog) -> dict[str, object]:
    """What families prefer and the bounds of their answers, as fields of `Rules`."""
    preferred = {f.name: f.policy.prefer for f in catalog.families if f.policy.prefer != "accuracy"}
    found: dict[str, object] = {"prefer": {**preferred, **({} if rules.prefer is UNSET else rules.prefer)} or UNSET}
    for name, of_rules in rules.amount_bounds.items():
        of_catalog = {f.name: bound for f in catalog.families if (bound := getattr(f.policy, name)) is not None}
        found[name] = {**of_catalog, **of_rules} or UNSET
    return found


def with_variants_of(rules: Rules, catalog: Catalog, before: Iterable[DeviceVariant]) -> Rules:
    """Rules that were made for an earlier catalog: with the names, bans and pins of this one.

    ``before`` are the bans and pins that stood in catalogs, and not in the rules themselves. Those of variants that are
    gone are left out.
    """
    names = {(f.name, name_in_catalog(v.name)): v.name for f, v in catalog.variants}
    stood, own = {each.in_catalog for each in before}, with_catalog(Rules(), catalog)

    def following(pairs: Sequence[DeviceVariant], of_catalog: Sequence[DeviceVariant]) -> tuple[DeviceVariant, ...]:
        kept = [
            DeviceVariant(each.device, each.family, names[each.family, each.variant])
            for each in (pair.in_catalog for pair in pairs)
            if each not in stood and (each.family, each.variant) in names
        ]
        return tuple(dict.fromkeys((*kept, *of_catalog)))

    return msgspec.structs.replace(
        rules, banned=following(rules.banned, own.banned), pinned=following(rules.pinned, own.pinned)
    )


_NO_RULES = Rules()
_BY_FAMILY = (
    "min_accuracy", "min_expected_accuracy", "max_share", "prefer", "max_latency_s", "max_energy_j",
    "max_cost_per_million",
)  # fmt: skip


class FamilyLimit(NamedTuple):
    """A rule of a family that stands in a catalog: which one, and its value, or the device that is reserved."""

    what: str
    family: str | None
    value: Any


def family_limits(catalog: Catalog) -> set[FamilyLimit]:
    """The limits of families that stand in a catalog."""
    rules = with_catalog(_NO_RULES, catalog)
    found = {
        FamilyLimit(what, family, value) for what in _BY_FAMILY for family, value in _by_family(rules, what).items()
    }
    return found | {FamilyLimit("reserved", each.family, each.device) for each in rules.reserved}


def with_families_of(rules: Rules, catalog: Catalog, before: Collection[FamilyLimit]) -> Rules:
    """Rules that were made for an earlier catalog, with those of families as they stand in this one.

    ``before`` are those that stood in catalogs, and not in the rules themselves. Those of families that are gone are
    left out.
    """
    own = with_catalog(_NO_RULES, catalog)
    found: dict[str, Any] = {}
    for what in _BY_FAMILY:
        kept = {
            family: value
            for family, value in _by_family(rules, what).items()
            if family in catalog.names and FamilyLimit(what, family, value) not in before
        }
        found[what] = {**_by_family(own, what), **kept} or getattr(_NO_RULES, what)
    reserved = [
        each
        for each in rules.reserved
        if (each.family is None or each.family in catalog.names)
        and FamilyLimit("reserved", each.family, each.device) not in before
    ]
    return msgspec.structs.replace(rules, reserved=tuple(dict.fromkeys((*reserved, *own.reserved))), **found)


def _by_family(rules: Rules, what: str) -> dict[str, Any]:
    found = getattr(rules, what)
    return {} if found is UNSET else found


def knows_amounts(measured: VariantProfile, price_per_hour: float | None, rules: Rules) -> bool:
    """Whether power and price are known where the family counts them."""
    return _unknown(measured, price_per_hour, rules) is None


def why_not_within(
    measured: VariantProfile, profile: Profile, target: SloTarget, price_per_hour: float | None, rules: Rules
) -> str | None:
    """Which limit an answer exceeds, or what of it is unknown; None: it keeps all.

    ``target`` is what plans count on. Some batches of the variant must be in time on the device of the ``profile``.
    """
    if (why := _unknown(measured, price_per_hour, rules)) is not None:
        return why
    energy_j, cost = (
        rules.amount_bounds[name].get(measured.family) for name in ("max_energy_j", "max_cost_per_million")
    )
    points = profile.points_of(measured)
    steps = rules.capacity_steps(target, points)
    if energy_j is not None and measured.power_w is not None:
        max_batch = max(step.capacity.max_batch for step in steps)
        max_j = max_energy_of(profile, measured, max_batch)
        if max_j > energy_j:
            return f"an answer may take {max_j:.3g} J there, and {energy_j:g} J at most"
    if cost is not None and price_per_hour is not None:
        found = cost_of(price_per_hour, steps[0].capacity.qps)
        if found > cost:
            return f"a million answers cost {found:.3g} there, and may cost {cost:g}"
    return None


def _unknown(measured: VariantProfile, price_per_hour: float | None, rules: Rules) -> str | None:
    if measured.power_w is None and measured.family in rules.families_that_count("energy"):
        return "its power was not measured there, and its family counts energy"
    if price_per_hour is None and measured.family in rules.families_that_count("cost"):
        return "the device has no price, and its family counts cost"
    return None
