"""Which device hosts which variant, and how each family's queries are shared."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import msgspec
from msgspec import UNSET, UnsetType

from proteus_cli.domain.base import LARGEST_BATCH, MadeBy, Value, is_amount, is_count, is_rate, require
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.cascade import PlannedCascade

PLAN_FORMAT = 2
"""1 had digests of the bytes of its inputs; 2 has digests of what they say."""


class Placement(Value, frozen=True, omit_defaults=True):
    """One variant on one device.

    ``rate_qps`` is what the plan sends it, and ``share`` the fraction of the family's served queries that this is.
    ``deferred_qps`` come on top: queries of cascades that another variant has deferred to it.
    ``capacity_qps`` is the most that it can answer with batches of ``max_batch`` rows; where the device hosts several
    variants, while the others grow by the same factor.
    """

    device: str
    family: str
    variant: str
    max_batch: int
    rate_qps: float
    share: float
    capacity_qps: float
    deferred_qps: float = 0.0

    def __post_init__(self) -> None:
        where = f"`{self.variant}` on `{self.device}`"
        require(is_count(self.max_batch, 1, LARGEST_BATCH), f"max_batch of {where} must be from 1 to {LARGEST_BATCH:,}")
        require(is_rate(self.rate_qps), f"rate_qps of {where} must be from 0 to 2^53")
        require(is_rate(self.deferred_qps), f"deferred_qps of {where} must be from 0 to 2^53")
        require(0 <= self.share <= 1 + 1e-9, f"share of {where} must be within 0 and 1")
        require(is_rate(self.capacity_qps), f"capacity_qps of `{self.variant}` must be from 0 to 2^53")

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)

    @property
    def newcomers_qps(self) -> float:
        """The most newcomers that it can answer, if what is deferred to it grows as much as they do."""
        if not self.deferred_qps:
            return self.capacity_qps
        return self.capacity_qps * self.rate_qps / (self.rate_qps + self.deferred_qps)


class Solver(Value, frozen=True):
    """How the plan was found: ``optimal`` or ``time limit``, in how many seconds.

    ``unserved_gap``: at most this part of the demand could be served beyond what this plan serves, by a plan that obeys
    the same rules; 1 where nothing is known of that. ``gap``: none is better by more than this in any objective that
    the solver came to, which is a part of the demand (unserved), an accuracy over it, a part of what all devices cost
    or draw, or a part of the plan's own loads or devices.
    """

    name: str
    status: str
    gap: float
    solve_s: float
    unserved_gap: float = 1.0


class Plan(Value, frozen=True, omit_defaults=True):
    """An allocation (``plans/plan.json``); rates in queries per second, accuracies as fractions.

    ``fleet`` lists the device ids by type that the plan may use. ``inputs`` are the files that the plan was made from:
    by path relative to the workspace, the SHA-256 of what each says, comments and layout apart
    (`store.content_digest`). ``estimated`` are the families with accuracies that are estimates, if there are any, and
    ``cascades`` those in use. ``expected_attainment``: by family, the share of its queries that are in time with
    what is hosted, if they go on to arrive as they did; of a plan for no forecast, if arrivals are Poisson.
    """

    format: int
    made_by: MadeBy
    policy: str
    objective: str
    rules: Rules
    headroom: float
    demand_qps: dict[str, float]
    served_qps: dict[str, float]
    unserved_qps: dict[str, float]
    effective_accuracy: float | None
    relative_accuracy: float | None
    solver: Solver
    fleet: dict[str, tuple[str, ...]]
    placements: tuple[Placement, ...]
    inputs: dict[str, str]
    estimated: tuple[str, ...] | UnsetType = UNSET
    cascades: tuple[PlannedCascade, ...] = ()
    expected_attainment: dict[str, float] | UnsetType = UNSET

    def __post_init__(self) -> None:
        require(self.format == PLAN_FORMAT, f"`format` is {self.format}; this version reads {PLAN_FORMAT}")
        require(is_amount(self.headroom) and self.headroom >= 1, "headroom must be at least 1")
        require(all(map(is_rate, self.served_qps.values())), "served rates must be from 0 to 2^53")
        for qps in (*self.demand_qps.values(), *self.unserved_qps.values()):
            require(is_amount(qps), "rates of the demand must be finite, and not negative")
        devices = set(self.devices)
        for placement in self.placements:
            require(placement.device in devices, f"placement on `{placement.device}`, which is not in the fleet")
            require(placement.family in self.demand_qps, f"placement of `{placement.family}`, which has no demand")
        for family, share in ({} if self.expected_attainment is UNSET else self.expected_attainment).items():
            require(0 <= share <= 1, f"expected_attainment of `{family}` must be a fraction from 0 to 1")
        hosted = {placement.key for placement in self.placements}
        for cascade in self.cascades:
            for variant in (cascade.first, cascade.second):
                require(VariantKey(cascade.family, variant) in hosted, f"no device hosts `{variant}`, of a cascade")

    def with_attainment(self, target: float | None) -> "Plan":
        """This plan with another attainment target for all families; None: as it is."""
        return msgspec.structs.replace(self, rules=self.rules.with_attainment(target))

    def with_names(self, rename: Callable[[VariantKey], str]) -> "Plan":
        """This plan with other names of its variants; two that have one name now have what both had."""
        placements = _joined(msgspec.structs.replace(each, variant=rename(each.key)) for each in self.placements)
        cascades = tuple(
            msgspec.structs.replace(
                each,
                first=rename(VariantKey(each.family, each.first)),
                second=rename(VariantKey(each.family, each.second)),
            )
            for each in self.cascades
        )
        rules = self.rules.with_names(rename)
        return msgspec.structs.replace(self, rules=rules, placements=placements, cascades=cascades)

    def expected_attainment_of(self, family: str) -> float | None:
        """The share of a family's queries that the plan expects in time; None where it expects nothing."""
        return None if self.expected_attainment is UNSET else self.expected_attainment.get(family)

    def expected_to_miss(self, targets: Mapping[str, float]) -> tuple[str, ...]:
        """The families of which the plan expects less in time than their target, a fraction of their queries."""
        expected = {family: self.expected_attainment_of(family) for family in self.demand_qps}
        return tuple(family for family, share in expected.items() if share is not None and share < targets[family])

    @property
    def devices(self) -> tuple[str, ...]:
        """All device ids that the plan may use."""
        return tuple(device for ids in self.fleet.values() for device in ids)

    @property
    def shortfall_qps(self) -> float:
        """Demand in qps, over all families, that the plan leaves unserved."""
        return sum(self.unserved_qps.values())

    def capacity_qps(self, family: str) -> float:
        """The most queries of the family that the hosted variants can take, beside what cascades defer to them."""
        return sum(p.newcomers_qps for p in self.placements if p.family == family)

    def by_device(self) -> dict[str, list[Placement]]:
        """The placements on each device; none on idle ones."""
        placed: dict[str, list[Placement]] = {device: [] for device in self.devices}
        for placement in self.placements:
            placed[placement.device].append(placement)
        return placed

    def hosted(self) -> dict[str, frozenset[VariantKey]]:
        """The variants on each device."""
        return {device: frozenset(p.key for p in placed) for device, placed in self.by_device().items()}

    def hosts_as(self, other: "Plan") -> bool:
        """Each device of the same fleet hosts the same variants, of the same inputs; shares and batches may differ."""
        return (self.hosted(), self.fleet, self.inputs) == (other.hosted(), other.fleet, other.inputs)

    def swaps_from(self, before: "Plan", standbys: Mapping[str, frozenset[VariantKey]] = MappingProxyType({})) -> int:
        """How many variant loads it takes to come here from ``before``; ``standbys`` (by device) need none."""
        nothing, old = frozenset[VariantKey](), before.hosted()
        return sum(
            len(new - old.get(device, nothing) - standbys.get(device, nothing)) for device, new in self.hosted().items()
        )


def _joined(placements: Iterable[Placement]) -> tuple[Placement, ...]:
    """Each variant once on each device."""
    found: dict[tuple[str, VariantKey], Placement] = {}
    for each in placements:
        before = found.get((each.device, each.key))
        found[each.device, each.key] = each if before is None else _both(before, each)
    return tuple(found.values())


def _both(one: Placement, other: Placement) -> Placement:
    return msgspec.structs.replace(
        one,
        rate_qps=one.rate_qps + other.rate_qps,
        share=one.share + other.share,
        capacity_qps=one.capacity_qps + other.capacity_qps,
        deferred_qps=one.deferred_qps + other.deferred_qps,
    )


class FrontierPoint(Value, frozen=True):
    """The best plan for one total demand: rates in queries per second, accuracies as fractions over what is served.

    ``without_cascades`` is the relative accuracy of the best plan without; left out where the rules allow none anyway.
    ``gap`` and ``solve_s`` as in a plan's `Solver`.
    """

    demand_qps: float
    served_qps: float
    unserved_qps: float
    effective_accuracy: float | None
    relative_accuracy: float | None
    devices_used: int
    gap: float
    solve_s: float
    without_cascades: float | UnsetType | None = UNSET
