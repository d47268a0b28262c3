"""A demand as the parameters of a model: what each family asks for, and how many replicas may be of use for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from proteus_cli.arrays import Bools, Floats, Ints
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import Demand, Forecast, LossCurve
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.instance import Instance
from proteus_cli.planning.model.milp import Parameters, has_served


@dataclass(frozen=True, slots=True)
class PlanningDemand:
    """A demand of all families in queries per second, the headroom over it, and curves; none without a forecast.

    A family that the forecast does not know has no queries, and any curve.
    """

    demand_qps: Mapping[str, float]
    headroom: float
    curves: tuple[LossCurve, ...]

    @classmethod
    def of(cls, demand: Demand, catalog: Catalog, headroom: float) -> "PlanningDemand":
        """The demand in the order of the catalog; a family that is not in it has none."""
        known = demand.curves if isinstance(demand, Forecast) else {}
        curves = tuple(known.get(name, any_curve) for any_curve in [*known.values()][:1] for name in catalog.names)
        return cls({name: float(demand.get(name, 0.0)) for name in catalog.names}, headroom, curves)

    @property
    def with_headroom_qps(self) -> Floats:
        """The demand of each family times the headroom [F]."""
        return np.array([qps * self.headroom for qps in self.demand_qps.values()])


NEGLIGIBLE = 1e-6  # a smaller part of a demand is the solver's rounding
HORIZON_S = 10.0  # s that a forecast is taken to hold: what it was made from
LOAD_EFFORT_S = 0.1
"""Seconds of a device that a load in place costs beside its own time: batches end before it, and plans change again."""


@dataclass(frozen=True, slots=True, eq=False)
class TargetDemand:
    """A demand with its headroom, in queries per second by family [F].

    ``qps`` is at most the rate that all devices together could serve, because solvers take very large numbers for
    infinity. ``servable_frac`` is its part of the demand, ``counted_frac`` the same for all families together.
    ``share_qps`` is the most that one device may get.

    By line [J] of a forecast's curves and family: ``lost_at_0``, and ``saved``, its decrease for each multiple of the
    demand. ``useful`` [F] is the largest multiple that saves any query, ``lost_at_best`` [F] the remaining loss.
    Without a forecast a query is lost where there is no capacity for it.
    """

    qps: Floats
    servable_frac: Floats
    counted_frac: float
    share_qps: Floats
    lost_at_0: Floats
    saved: Floats
    useful: Floats
    lost_at_best: Floats

    @classmethod
    def of(cls, instance: Instance, asked_qps: Floats, curves: Sequence[LossCurve] = ()) -> "TargetDemand":
        """``curves`` by family; none without a forecast."""
        qps, one = np.minimum(asked_qps, instance.max_qps), np.ones(len(asked_qps))
        share_qps, servable_frac = instance.max_share * asked_qps, _ratio(qps, asked_qps, where_zero=1.0)
        counted_frac = _part_of_sum(qps, asked_qps)
        if not curves:
            return cls(qps, servable_frac, counted_frac, share_qps, one[None], one[None], one, 1 - one)
        lines = np.array([curve.lines for curve in curves])  # [F, J, 2]
        useful = np.array([curve.capacities[-1] for curve in curves])
        lost_at_0, saved = lines[:, :, 0].T, lines[:, :, 1].T * servable_frac
        lost_at_best = np.array([curve.lost[-1] for curve in curves])
        return cls(qps, servable_frac, counted_frac, share_qps, lost_at_0, saved, useful, lost_at_best)

    @property
    def is_forecast(self) -> bool:
        """There are curves."""
        return len(self.lost_at_0) > 1

    @property
    def exceeds_capacity(self) -> bool:
        """Some family can't be served in full, whatever the plan."""
        return bool(np.any(self.servable_frac < 1))


def parameter_values(
    instance: Instance, rules: Rules, target: TargetDemand, current_replicas: Ints | None
) -> Parameters:
    """The values of a model's parameters, for a demand and the replicas [E] that need no load; None: without a plan."""
    qps, useful = target.qps[instance.choice_family], target.useful[instance.choice_family]
    has_demand = (target.qps > 0).astype(np.float64)
    # Room beyond the demand is of use, but no device gets more of the demand for it than the family may have there.
    share_qps = target.share_qps * np.where(instance.max_share < 1, 1.0, target.useful)
    replica_qps = np.minimum(instance.capacity_qps, share_qps[instance.choice_family])
    capacity_frac = np.minimum(_ratio(replica_qps, qps), useful)
    # With too few hosts, a choice has no capacity: `max_replicas` leaves it out.
    fewest_hosts = has_demand * _fewest_hosts(instance)
    max_replicas = _max_replicas(capacity_frac, useful, fewest_hosts, instance, rules, current_replicas)
    # Without a plan in force, nothing counts as a load.
    without_load = instance.hosted(max_replicas) if current_replicas is None else current_replicas
    return Parameters(
        has_demand=has_demand,
        demand_frac=target.qps / max(float(target.qps.sum()), np.finfo(np.float64).tiny),
        servable_frac=target.servable_frac,
        max_share_frac=_max_share_frac(instance, target),
        fewest_hosts=fewest_hosts,
        capacity_frac=capacity_frac,
        utilisation=_ratio(qps, instance.capacity_qps),
        current_replicas=without_load.astype(np.float64),
        max_replicas=max_replicas,
        load_loss=(np.where(instance.loads_beside, 0.0, LOAD_EFFORT_S) + instance.load_s)
        / (HORIZON_S * instance.device_count.sum()),
        network_frac=qps * instance.network_frac_s,
        min_shortfall=(target.lost_at_best * has_demand)[instance.step_family],
        lost_at_0=target.lost_at_0 * has_demand,
        saved=_saved(instance, rules, target, capacity_frac),
        **_of_ways(instance, target, capacity_frac),
        **_of_sets(instance, target),
    )


def _fewest_hosts(instance: Instance) -> Floats:
    """The fewest hosts of each family [F] with which any of the choices that are counted on is in time; 0 for one.

    No fewer than the instance says.
    """
    fewest = np.full(len(instance.families), np.inf)
    for c in np.flatnonzero(instance.capacity_qps > 0).tolist():
        choice = instance.choices[c]
        fewest[choice.family] = min(fewest[choice.family], choice.capacity_steps[0].hosts)
    fewest = np.where((fewest > 1) & (fewest < np.inf), fewest, 0.0)
    return np.maximum(fewest, instance.min_hosts) if instance.min_hosts else fewest


def _max_share_frac(instance: Instance, target: TargetDemand) -> Floats:
    most = _ratio(np.minimum(target.share_qps, target.qps), target.qps)
    if instance.ways is None:
        return most
    is_free = instance.ways.has_ways & (instance.max_share >= 1)  # both stages may be on one device
    return np.where(is_free, 2.0, most)


def _saved(instance: Instance, rules: Rules, target: TargetDemand, capacity_frac: Floats) -> Floats:
    of_replica, of_choice = 1.0 if has_served(instance, rules) else capacity_frac, instance.choice_family
    return np.minimum(target.saved[:, of_choice] * of_replica, target.lost_at_0[:, of_choice])


def _of_ways(instance: Instance, target: TargetDemand, capacity_frac: Floats) -> dict[str, Any]:
    ways = instance.ways
    if ways is None:
        return {}
    most = ways.max_needed[ways.row_of] * target.useful[instance.choice_family[ways.choice_of]]
    usable_frac = np.minimum(capacity_frac[ways.choice_of], most)
    return {"saved_by_all": target.saved, "usable_frac": usable_frac}


def _of_sets(instance: Instance, target: TargetDemand) -> dict[str, Any]:
    """No device may hold a set with a variant that is late for these hosts."""
    sets = instance.sets
    if sets is None:
        return {}
    qps = target.qps[instance.choice_family[sets.pair_choice]]
    pair_qps = np.array([capacity.qps for capacity in sets.capacities(instance.hosts, instance.choices)])
    devices, is_in_time = instance.device_count[sets.group], pair_qps > 0
    engines = np.stack((sets.pair_set, instance.engine_of[sets.pair_choice]))
    (set_of, _), engine_in_set = np.unique(engines, axis=1, return_inverse=True)
    in_time = np.bincount(engine_in_set.ravel(), is_in_time, minlength=len(set_of))
    is_late = np.bincount(set_of, in_time == 0, minlength=len(devices)) > 0
    useful = target.useful[instance.choice_family[sets.pair_choice]]
    return {
        "set_utilisation": _ratio(qps, pair_qps),
        "set_limits": np.where(is_late, 0.0, devices),
        "pair_frac": np.minimum(_ratio(pair_qps, qps), useful),
    }


def _ratio(part: Floats, whole: Floats, *, where_zero: float = 0.0) -> Floats:
    return np.divide(part, whole, out=np.full_like(part, where_zero), where=whole > 0)


def _max_replicas(
    capacity_frac: Floats,
    useful: Floats,
    fewest_hosts: Floats,
    instance: Instance,
    rules: Rules,
    current_replicas: Ints | None,
) -> Floats:
    """The most replicas of each choice [C] that may be of use: up to the ``useful`` capacity, none if it is dominated.

    But up to the ``fewest_hosts`` of the family [F], too.

    A dominated choice stays possible for a spare, which answers nothing and is best what the device hosts now.
    """
    with np.errstate(divide="ignore"):
        spares = float(rules.survives == "device")  # the devices of one host are lost together
        enough = np.where(capacity_frac > 0, np.ceil(useful / capacity_frac - NEGLIGIBLE) + spares, 0.0)
    enough = np.where(capacity_frac > 0, np.maximum(enough, fewest_hosts[instance.choice_family]), enough)
    enough[instance.is_shared & (capacity_frac > 0)] = np.inf  # among others, each can do less
    max_replicas = np.minimum(enough, instance.device_count[instance.choice_group])
    is_useless = _is_dominated(instance, rules, capacity_frac)
    if rules.survive and current_replicas is not None:
        is_useless &= current_replicas[instance.engine_of] == 0
    max_replicas[is_useless] = 0.0
    return np.maximum(max_replicas, instance.pinned)


def _is_dominated(instance: Instance, rules: Rules, capacity_frac: Floats) -> Bools:
    """Whether another choice of the same family and group is worth more, as fast, and takes no more [C].

    Those for a part of the SLO never are: a cascade may need just that variant. A choice for a longer part is dominated
    where it is not faster than the same variant in a shorter part.
    """
    nothing = np.zeros(len(capacity_frac))
    speed = instance.capacity_qps if rules.is_resident_set else capacity_frac
    power_w = instance.power_w if "power" in rules.resources else nothing
    memory = instance.memory_frac if rules.is_resident_set else nothing
    mine, other = instance.rivals
    as_fast = (speed[mine] <= speed[other]) & (capacity_frac[mine] <= capacity_frac[other])
    as_cheap = (power_w[mine] >= power_w[other]) & (memory[mine] >= memory[other])
    dominated = np.zeros(len(capacity_frac), dtype=bool)
    dominated[mine[as_fast & as_cheap]] = True
    return dominated if instance.ways is None else _without_stages(dominated, instance)


def _without_stages(dominated: Bools, instance: Instance) -> Bools:
    part = np.array([choice.slo_part for choice in instance.choices])
    before = np.r_[False, (instance.engine_of[1:] == instance.engine_of[:-1]) & (np.diff(instance.capacity_qps) <= 0)]
    found: Bools = np.where(part < 1, before, dominated | before)
    return found


def _part_of_sum(part: Floats, whole: Floats) -> float:
    """The quotient of two sums that may overflow a float; above 0, and 1 where the second sum is 0."""
    largest = float(whole.max(initial=0.0))
    if largest == 0:
        return 1.0
    return max(float((part / largest).sum() / (whole / largest).sum()), float(np.finfo(np.float64).tiny))
