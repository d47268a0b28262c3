"""The rules of plans besides the demand: objectives, limits of devices and variants, budgets.

Some stand in the catalog, and follow it when it changes. A variant is also limited by the energy and the cost of its
answers (`why_not_within`). These depend on the variant and its device alone, so planner and version roll-outs agree.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from msgspec import Meta, field
from msgspec.structs import replace

from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget
from proteus_cli.domain.base import (
    Amount,
    Fraction,
    OpenFraction,
    PositiveAmount,
    PositiveCount,
    PositiveFraction,
    Value,
    always,
    require,
)
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
from proteus_cli.domain.catalog import Catalog, Family, Preference, VariantKey, name_in_catalog
from proteus_cli.domain.device import Device, host_of
from proteus_cli.domain.profile import LatencyStatistic, Point, Profile, VariantProfile
from proteus_cli.domain.stages.cascade import SLO_PARTS

Resource = Literal["cost", "power"]
Residency = PositiveCount | Literal["memory"]
LossUnit = Literal["device", "host"]
"""The unit of a loss: a device, or a host of a cluster with all its devices."""


class DeviceVariant(Value, frozen=True, order=True):
    """One variant on some devices. ``device`` is an id, or a type for all devices of that type."""

    device: str
    family: str
    variant: str

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)

    @property
    def in_catalog(self) -> "DeviceVariant":
        """The same with the variant's name in the catalog file."""
        return DeviceVariant(self.device, self.family, name_in_catalog(self.variant))

    def __str__(self) -> str:
        return f"{self.device}:{self.family}/{self.variant}"


class Reserved(Value, frozen=True, order=True):
    """Devices (an id or a type) that only ``family`` may use; no family at all if that is None.

    Families that reserve the same device share it.
    """

    device: str
    family: str | None = None


class Rules(Value, frozen=True, omit_defaults=True):
    """How to plan, whatever the demand. They are part of each plan, so a re-plan obeys them too.

    - ``capacity``: the latency statistic of a batch that divides its size, for the capacity of a variant;
    - ``slo_fraction``: batches whose latency, by that statistic, exceeds this fraction of the SLO don't count. None:
      batches whose p95 leaves too little time for the wait before them, by the number of hosts (`slo_fraction`);
    - ``fairness``: ``total`` serves the largest total; ``maxmin`` first maximises the served fraction of the worst
      family, then of the next, and so on;
    - ``minimize``: serve all demand at the lowest price per hour, or power, and only then accurately;
    - ``residency``: the number of variants that a device may hold at a time; ``memory``: all that fit;
    - ``survive``: the number of devices (0 or 1) that may be lost without losing capacity for what is served. With
      ``survive_unit`` ``host`` it counts hosts with all their devices. This machine is the host of its own devices;
    - ``pack``: use the fewest devices that the other rules allow;
    - ``attainment``: the fraction of every family's queries that must be answered in time; None: as in the catalog;
    - ``min_accuracy``: by family, the accuracy of the least accurate variant that may answer, also as a stage;
    - ``min_expected_accuracy``: by family, the least expected accuracy of an answer, of a variant alone or of a whole
      cascade. The first variant of the cascade may be less accurate;
    - ``max_share``: by family, the largest fraction of its demand (headroom included) on one device;
    - ``budget_w``, ``budget_cost``: the highest power (watts), or cost per hour, of all devices in use;
    - ``prefer``: by family, the quality of answers to optimise; accuracy by default. All families share one objective
      (`planning.model.worths`). Families with another preference use no cascades;
    - ``max_latency_s``: by family, the time for batches and the wait before them, instead of the SLO;
    - ``max_energy_j``, ``max_cost_per_million``: by family, the highest energy of an answer in any batch, and the
      highest cost of a million queries in full batches;
    - ``cascades``: queries may go through cascades that the profiles know.
    """

    capacity: LatencyStatistic = always("mean")
    slo_fraction: PositiveFraction | None = always(None)
    fairness: Literal["total", "maxmin"] = always("total")
    minimize: Resource | None = always(None)
    residency: Residency = always(1)
    survive: Annotated[int, Meta(ge=0, le=1)] = always(0)
    pack: bool = always(False)
    attainment: OpenFraction | None = always(None)
    min_accuracy: dict[str, Fraction] = always({})
    max_share: dict[str, PositiveFraction] = always({})
    reserved: tuple[Reserved, ...] = always(())
    banned: tuple[DeviceVariant, ...] = always(())
    pinned: tuple[DeviceVariant, ...] = always(())
    budget_w: Amount | None = always(None)
    budget_cost: Amount | None = always(None)
    survive_unit: LossUnit = "device"
    cascades: bool = False
    min_expected_accuracy: dict[str, Fraction] = field(default_factory=dict)
    prefer: dict[str, Preference] = field(default_factory=dict)
    max_latency_s: dict[str, PositiveAmount] = field(default_factory=dict)
    max_energy_j: dict[str, PositiveAmount] = field(default_factory=dict)
    max_cost_per_million: dict[str, PositiveAmount] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # With several variants per device a loss takes capacity from all of them, and each loss asks for another plan.
        require(not self.survive or self.residency == 1, "survive takes one variant per device (residency 1)")

    def capacity_steps(self, target: SloTarget, points: Sequence[Point]) -> tuple[CapacityStep, ...]:
        """The capacity of a variant with these points, by the number of its family's hosts."""
        if self.slo_fraction is not None:
            in_time = points_in_time(points, self.slo_fraction * target.slo_s, of=self.capacity)
            return (CapacityStep(1, capacity(in_time, of=self.capacity)),) if in_time else ()
        return capacity_by_hosts(tuple(points), target, of=self.capacity)

    def stage_steps(
        self, target: SloTarget, points: Sequence[Point]
    ) -> Iterator[tuple[float, tuple[CapacityStep, ...]]]:
        """Each part of the SLO that plans may give to a variant, rising, with its `capacity_steps`."""
        for part in SLO_PARTS if self.cascades else (1.0,):
            yield part, self.capacity_steps(target.of_part(part), points)

    def capacity_within(
        self, slo_s: float, points: Sequence[Point], hosts: int = 1, attainment: float = DEFAULT_ATTAINMENT
    ) -> Capacity:
        """The capacity of a variant with these points, if ``hosts`` hosts serve its family."""
        return capacity_at(self.capacity_steps(SloTarget(slo_s, attainment), points), hosts)

    def with_names(self, rename: Callable[[VariantKey], str]) -> "Rules":
        """The same rules with other names of variants."""
        banned, pinned = (
            tuple(replace(pair, variant=rename(pair.key)) for pair in pairs) for pairs in (self.banned, self.pinned)
        )
        return replace(self, banned=banned, pinned=pinned)

    def with_attainment(self, target: float | None) -> "Rules":
        """The same rules with another attainment target for all families; None: unchanged."""
        return self if target is None else replace(self, attainment=target)

    def attainment_targets(self, catalog: Catalog) -> Mapping[str, float]:
        """The fraction of queries that must be answered in time, by family."""
        return {each.name: each.attainment if self.attainment is None else self.attainment for each in catalog.families}

    def prefers(self, family: str) -> Preference:
        """The preference of a family."""
        return self.prefer.get(family, "accuracy")

    @property
    def others_preferred(self) -> Mapping[str, Preference]:
        """The families that prefer something other than accuracy, with their preference."""
        return {name: of for name, of in self.prefer.items() if of != "accuracy"}

    def families_that_count(self, amount: Literal["energy", "cost"]) -> frozenset[str]:
        """The families that prefer little of it, or bound it."""
        bounds = self.max_energy_j if amount == "energy" else self.max_cost_per_million
        return frozenset(bounds) | {name for name, of in self.prefer.items() if of == amount}

    def planned_target(self, family: str, target: SloTarget) -> SloTarget:
        """The target that plans use for a family whose catalog says ``target``: with the bound of its policy."""
        slo_s = min(target.slo_s, self.max_latency_s.get(family, target.slo_s))
        return SloTarget(slo_s, target.attainment if self.attainment is None else self.attainment)

    def planned_targets(self, targets: Mapping[str, SloTarget]) -> Mapping[str, SloTarget]:
        """`planned_target` of each family."""
        return {family: self.planned_target(family, target) for family, target in targets.items()}

    def min_accuracy_alone(self, family: str) -> float:
        """The least accuracy of a variant that may answer by itself."""
        return max(self.min_accuracy.get(family, 0.0), self.min_expected_accuracy.get(family, 0.0))

    def min_accuracy_hosted(self, family: str) -> float:
        """The least accuracy of a variant that may be hosted.

        A first stage of a cascade may have less than `min_accuracy_alone`. This does not hold for plans that survive a
        loss, as each query is answered by one variant then.
        """
        is_stage = self.may_use_cascades(family) and not self.survive
        return self.min_accuracy.get(family, 0.0) if is_stage else self.min_accuracy_alone(family)

    @property
    def survives(self) -> LossUnit | None:
        """The unit that may be lost, any one of them."""
        return self.survive_unit if self.survive else None

    def unit_of(self, device: str) -> str:
        """The unit that is lost together with a device (by id): its host, or only itself."""
        return host_of(device) if self.survives == "host" else device

    def may_use_cascades(self, family: str) -> bool:
        """Whether a family may use cascades: it prefers accuracy, and does not count energy or cost."""
        counted = self.families_that_count("energy") | self.families_that_count("cost")
        return self.cascades and self.prefers(family) == "accuracy" and family not in counted

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
        """The resources that plans limit or minimise."""
        return frozenset(self.budgets) | ({self.minimize} if self.minimize is not None else set())


PAPER_RULES = Rules(capacity="p95", slo_fraction=0.5)
"""The paper's rules (§4): a query may wait for a whole batch before it runs in the next."""


def selects(selector: str, device: Device) -> bool:
    """Whether ``selector`` (an id or a type) means this device."""
    return selector in {device.id, device.type}


@dataclass(frozen=True, slots=True)
class DeviceLimits:
    """The limits of a device by the rules. ``reserved_for``: the only families that may use it, or None."""

    pinned: frozenset[VariantKey]
    banned: frozenset[VariantKey]
    reserved_for: frozenset[str] | None

    def allows(self, key: VariantKey) -> bool:
        """Whether the device may host a variant."""
        return key not in self.banned and (self.reserved_for is None or key.family in self.reserved_for)


def limits_of(device: Device, rules: Rules) -> DeviceLimits:
    """The limits of a device. A device that is reserved for no family may host nothing."""
    holders = [each.family for each in rules.reserved if selects(each.device, device)]
    families = frozenset(name for name in holders if name is not None and None not in holders)
    pinned, banned = (
        frozenset(pair.key for pair in pairs if selects(pair.device, device)) for pairs in (rules.pinned, rules.banned)
    )
    return DeviceLimits(pinned, banned, families if holders else None)


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


_OF_FAMILIES: dict[str, Callable[[Family], Any]] = {
    "min_accuracy": lambda family: family.min_accuracy,
    "min_expected_accuracy": lambda family: family.min_expected_accuracy,
    "max_share": lambda family: family.max_share,
    "prefer": lambda family: None if family.policy.prefer == "accuracy" else family.policy.prefer,
    "max_latency_s": lambda family: family.policy.max_latency_s,
    "max_energy_j": lambda family: family.policy.max_energy_j,
    "max_cost_per_million": lambda family: family.policy.max_cost_per_million,
}
"""Rules by family, with their values in the catalog; None: not set."""
_OF_VARIANTS = ("banned", "pinned")


def with_catalog(rules: Rules, catalog: Catalog) -> Rules:
    """``rules`` with the rules of the catalog. Where both limit the same, ``rules`` win."""
    by_family = {
        what: {f.name: value for f in catalog.families if (value := get(f)) is not None} | getattr(rules, what)
        for what, get in _OF_FAMILIES.items()
    }
    reserved = [Reserved(device, f.name) for f in catalog.families for device in f.reserved]
    pairs = {
        what: [DeviceVariant(device, f.name, v.name) for f, v in catalog.variants for device in getattr(v, what)]
        for what in _OF_VARIANTS
    }
    listed: dict[str, list[Any]] = {"reserved": reserved, **pairs}
    once = {what: tuple(dict.fromkeys([*getattr(rules, what), *found])) for what, found in listed.items()}
    return replace(rules, **by_family, **once)


class CatalogRule(NamedTuple):
    """One rule of a catalog: its field in `Rules`, with one entry, by the names of the catalog file."""

    what: str
    entry: Any


def rules_of(catalog: Catalog) -> set[CatalogRule]:
    """The rules that stand in a catalog."""
    rules = with_catalog(Rules(), catalog)
    by_family = {CatalogRule(what, item) for what in _OF_FAMILIES for item in getattr(rules, what).items()}
    pairs = {CatalogRule(what, pair.in_catalog) for what in _OF_VARIANTS for pair in getattr(rules, what)}
    return by_family | pairs | {CatalogRule("reserved", each) for each in rules.reserved}


def following_catalog(rules: Rules, catalog: Catalog, before: Collection[CatalogRule]) -> Rules:
    """Rules of an earlier catalog, with the names and the rules of this one.

    ``before`` are the rules that came from catalogs. Rules of families and variants that are gone are left out.
    """
    names = {(f.name, name_in_catalog(v.name)): v.name for f, v in catalog.variants}
    kept: dict[str, Any] = {
        what: {
            family: value
            for family, value in getattr(rules, what).items()
            if family in catalog.names and CatalogRule(what, (family, value)) not in before
        }
        for what in _OF_FAMILIES
    }
    for what in _OF_VARIANTS:
        pairs = [pair for each in getattr(rules, what) if CatalogRule(what, pair := each.in_catalog) not in before]
        kept[what] = tuple(replace(pair, variant=names[pair.key]) for pair in pairs if pair.key in names)
    kept["reserved"] = tuple(
        each
        for each in rules.reserved
        if each.family in {None, *catalog.names} and CatalogRule("reserved", each) not in before
    )
    return with_catalog(replace(rules, **kept), catalog)


def unknown_amount(measured: VariantProfile, price_per_hour: float | None, rules: Rules) -> str | None:
    """The amount that the family counts and that is unknown on a device; None: all are known."""
    if measured.power_w is None and measured.family in rules.families_that_count("energy"):
        return "its power was not measured there, and its family counts energy"
    if price_per_hour is None and measured.family in rules.families_that_count("cost"):
        return "the device has no price, and its family counts cost"
    return None


def why_not_within(
    measured: VariantProfile, profile: Profile, target: SloTarget, price_per_hour: float | None, rules: Rules
) -> str | None:
    """The limit that an answer exceeds, or its unknown amount; None: it keeps all limits.

    ``target`` is the planned target. Some batches of the variant must be in time on the device of the ``profile``.
    """
    energy_j, cost = rules.max_energy_j.get(measured.family), rules.max_cost_per_million.get(measured.family)
    why = unknown_amount(measured, price_per_hour, rules)
    if why is not None or (energy_j is None and cost is None):
        return why
    steps = rules.capacity_steps(target, profile.points_of(measured))
    max_j = max_energy_of(profile, measured, max(step.capacity.max_batch for step in steps))
    if energy_j is not None and max_j > energy_j:
        return f"an answer may take {max_j:.3g} J there, and {energy_j:g} J at most"
    found = cost_of(price_per_hour or 0.0, steps[0].capacity.qps)
    if cost is not None and found > cost:
        return f"a million answers cost {found:.3g} there, and may cost {cost:g}"
    return None
