"""The model: which choices to host how often, and at what rate (DESIGN §7)."""

from dataclasses import dataclass
from typing import Any

import cvxpy as cp

from proteus_cli.planning.instance import Instance


@dataclass(frozen=True, slots=True)
class Model:
    """Compiled once for an instance; only the parameters change between solves (DPP).

    Variables: ``hosts`` [C] devices of the choice's group that host it, ``rate_qps`` [C], ``unserved_qps`` [F].
    Parameters: ``demand_qps`` [F] with its headroom, ``most_unserved_qps`` as found by the first level.
    """

    demand_qps: Any
    most_unserved_qps: Any
    hosts: Any
    rate_qps: Any
    unserved_qps: Any
    serve_most: Any
    then_most_accurate: Any


def formulate(instance: Instance) -> Model:
    """The lexicographic model: first serve all that can be served, then be as accurate as possible."""
    demand_qps = cp.Parameter(len(instance.families), nonneg=True)
    most_unserved_qps = cp.Parameter(nonneg=True)
    hosts = cp.Variable(len(instance.choices), integer=True)
    rate_qps = cp.Variable(len(instance.choices))
    unserved_qps = cp.Variable(len(instance.families))

    constraints = {
        "nothing_is_negative": [hosts >= 0, rate_qps >= 0, unserved_qps >= 0],
        "each_device_hosts_one_variant": [instance.of_group @ hosts <= instance.device_count],
        "within_capacity": [rate_qps <= cp.multiply(instance.capacity_qps, hosts)],
        # Says nothing new to whole numbers. But the solver takes a host of 1e-6 for none, which a small demand on a
        # fast device would slip through; and it tightens the relaxation.
        "no_host_serves_more_than_is_asked": [rate_qps <= cp.multiply(instance.of_family.T @ demand_qps, hosts)],
        "demand_is_served_or_counted": [instance.of_family @ rate_qps + unserved_qps == demand_qps],
    }
    always = [constraint for group in constraints.values() for constraint in group]
    as_much_served = [cp.sum(unserved_qps) <= most_unserved_qps]
    return Model(
        demand_qps=demand_qps,
        most_unserved_qps=most_unserved_qps,
        hosts=hosts,
        rate_qps=rate_qps,
        unserved_qps=unserved_qps,
        serve_most=cp.Problem(cp.Minimize(cp.sum(unserved_qps)), always),
        then_most_accurate=cp.Problem(cp.Maximize(instance.accuracy @ rate_qps), always + as_much_served),
    )
