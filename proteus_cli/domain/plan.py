"""A plan: the device of each variant, and the shares of each family's queries."""

from collections.abc import Callable, Mapping
from typing import Annotated

from msgspec import UNSET, Meta, UnsetType, field
from msgspec.structs import replace

from proteus_cli.domain.base import (
    LARGEST_FLOAT,
    Amount,
    BatchSize,
    Fraction,
    MadeBy,
    Rate,
    Share,
    Value,
    require,
    require_format,
)
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.cascade import PlannedCascade

PLAN_FORMAT = 2


class Placement(Value, frozen=True, omit_defaults=True):
    """One variant on one device.

    ``rate_qps`` is the planned rate, and ``share`` its fraction of the family's served queries. ``deferred_qps`` come
    on top: queries of cascades that another variant defers to it.
    ``capacity_qps`` is its highest rate in batches of ``max_batch`` rows. On a device with several variants, it assumes
    that the others grow by the same factor.
    """

    device: str
    family: str
    variant: str
    max_batch: BatchSize
    rate_qps: Rate
    share: Share
    capacity_qps: Rate
    deferred_qps: Rate = 0.0

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.variant)

    @property
    def newcomers_qps(self) -> float:
        """The highest rate of newcomers, if the deferred queries grow by the same factor."""
        if not self.deferred_qps:
            return self.capacity_qps
        return self.capacity_qps * self.rate_qps / (self.rate_qps + self.deferred_qps)


class Solver(Value, frozen=True):
    """The solution: its ``status`` (``optimal`` or ``time limit``) and the seconds it took.

    ``unserved_gap`` bounds the demand, as a fraction, that a better plan under the same rules could serve in addition;
    1 if unknown. ``gap`` bounds the improvement that is possible in any objective that the solver came to. Its unit
    follows the objective: a fraction of the demand (unserved), an accuracy, a fraction of the cost or power of all
    devices, or of the plan's own loads or devices.
    """

    name: str
    status: str
    gap: float
    solve_s: float
    unserved_gap: float = 1.0


class Plan(Value, frozen=True, omit_defaults=True):
    """An allocation (``plans/plan.json``); rates in queries per second, accuracies as fractions.

    ``fleet`` lists the usable device ids by type. ``inputs`` are digests of the files that the plan was made from, by
    path in the workspace, without comments and layout (`store.content_digest`). ``estimated`` are the families with
    estimated accuracies, and ``cascades`` those in use. ``expected_attainment``: by family, the fraction of its queries
    that are in time with this hosting if arrivals continue as forecast. Without a forecast it assumes Poisson arrivals.
    """

    format: int
    made_by: MadeBy
    policy: str
    objective: str
    rules: Rules
    headroom: Annotated[float, Meta(ge=1, le=LARGEST_FLOAT)]
    demand_qps: dict[str, Amount]
    served_qps: dict[str, Rate]
    unserved_qps: dict[str, Amount]
    effective_accuracy: float | None
    relative_accuracy: float | None
    solver: Solver
    fleet: dict[str, tuple[str, ...]]
    placements: tuple[Placement, ...]
    inputs: dict[str, str]
    estimated: tuple[str, ...] = ()
    cascades: tuple[PlannedCascade, ...] = ()
    expected_attainment: dict[str, Fraction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_format(self.format, PLAN_FORMAT)
        devices, hosted = set(self.devices), {placement.key for placement in self.placements}
        for placement in self.placements:
            require(placement.device in devices, f"placement on `{placement.device}`, which is not in the fleet")
            require(placement.family in self.demand_qps, f"placement of `{placement.family}`, which has no demand")
        for cascade in self.cascades:
            for variant in (cascade.first, cascade.second):
                require(VariantKey(cascade.family, variant) in hosted, f"no device hosts `{variant}`, of a cascade")

    def with_attainment(self, target: float | None) -> "Plan":
        """This plan with another attainment target for all families; None: unchanged."""
        return replace(self, rules=self.rules.with_attainment(target))

    def with_names(self, rename: Callable[[VariantKey], str]) -> "Plan":
        """This plan with other names of its variants. Two that get the same name are joined."""
        placements: dict[tuple[str, VariantKey], Placement] = {}
        for each in self.placements:
            named = replace(each, variant=rename(each.key))
            place = named.device, named.key
            placements[place] = _together(placements[place], named) if place in placements else named
        cascades = (
            replace(
                each,
                first=rename(VariantKey(each.family, each.first)),
                second=rename(VariantKey(each.family, each.second)),
            )
            for each in self.cascades
        )
        rules = self.rules.with_names(rename)
        return replace(self, rules=rules, placements=tuple(placements.values()), cascades=tuple(cascades))

    def expected_to_miss(self, targets: Mapping[str, float]) -> tuple[str, ...]:
        """The families whose expected attainment is below their target; fractions."""
        expected = ((family, self.expected_attainment.get(family)) for family in self.demand_qps)
        return tuple(family for family, share in expected if share is not None and share < targets[family])

    @property
    def devices(self) -> tuple[str, ...]:
        """All device ids that the plan may use."""
        return tuple(device for ids in self.fleet.values() for device in ids)

    @property
    def shortfall_qps(self) -> float:
        """Unserved demand over all families."""
        return sum(self.unserved_qps.values())

    def capacity_qps(self, family: str) -> float:
        """The highest rate of the family's newcomers that the hosted variants can take."""
        return sum(p.newcomers_qps for p in self.placements if p.family == family)

    def by_device(self) -> dict[str, list[Placement]]:
        """The placements on each device; none on idle ones."""
        placed: dict[str, list[Placement]] = {device: [] for device in self.devices}
        for placement in self.placements:
            placed[placement.device].append(placement)
        return placed

    def hosted(self) -> dict[str, frozenset[VariantKey]]:
        """The variants on each device."""
        placed: dict[str, list[VariantKey]] = {device: [] for device in self.devices}
        for placement in self.placements:
            placed[placement.device].append(placement.key)
        return {device: frozenset(keys) for device, keys in placed.items()}

    def hosts_as(self, other: "Plan") -> bool:
        """Whether fleet, inputs and the variants on each device are equal; shares and batches may differ."""
        mine, others = ({(p.device, p.family, p.variant) for p in plan.placements} for plan in (self, other))
        return (mine, self.fleet, self.inputs) == (others, other.fleet, other.inputs)


def _together(one: Placement, other: Placement) -> Placement:
    amounts = "rate_qps", "share", "capacity_qps", "deferred_qps"
    return replace(one, **{name: getattr(one, name) + getattr(other, name) for name in amounts})


class FrontierPoint(Value, frozen=True):
    """The best plan for one total demand: rates in queries per second, accuracies as fractions of what is served.

    ``without_cascades`` is the relative accuracy of the best plan without cascades; omitted if the rules allow none.
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
