"""How many hosts families are counted on to have, and need; and idle devices that make up for missing ones."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.plan import Placement
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.instance import Instance, Now
from proteus_cli.planning.solver.solution import Solution
from proteus_cli.planning.solver.target_demand import NEGLIGIBLE


def kept_replicas(instance: Instance, solution: Solution, rules: Rules) -> Ints:
    """The replicas of each choice [C] that become placements. Replicas without queries are dropped unless asked for.

    With a forecast, those are there for bursts.
    """
    is_asked_for = rules.survives is not None or solution.is_forecast
    pinned = np.minimum(instance.pinned, solution.replicas)
    kept: Ints = np.where((solution.executed_qps > 0) | is_asked_for, solution.replicas, pinned)
    return kept.astype(np.int64)


def hosts_now(instance: Instance, current: Now) -> Ints:
    """How many hosts each family [F] has in the plan in force."""
    count = Counter(key.family for keys in current.hosted.values() for key in keys)
    return np.array([count[name] for name in instance.families])


def likely_hosts(instance: Instance, replicas: Floats, idle: int) -> Ints:
    """How many hosts each family [F] is likely to have at most, by the replicas [C] of a relaxation.

    One more than these, and as many as the slowest variants need to be in time, if ``idle`` devices can join them.
    """
    hosts: Ints = np.ceil(instance.family_choices @ replicas - NEGLIGIBLE).astype(np.int64) + 1
    fewest: Ints = np.zeros(len(instance.families), dtype=np.int64)
    for c in np.flatnonzero(replicas > NEGLIGIBLE).tolist():
        choice = instance.choices[c]
        fewest[choice.family] = max(fewest[choice.family], choice.capacity_steps[0].hosts)
    missing = np.maximum(fewest - hosts, 0)
    for f in np.argsort(missing, kind="stable").tolist():
        joining = int(missing[f]) if missing[f] <= idle else 0
        hosts[f], idle = hosts[f] + joining, idle - joining
    return hosts


def needed_hosts(instance: Instance, bundles: Iterable[Collection[int]]) -> Ints:
    """The fewest hosts of each family [F] with which the capacities hold; 0 where it hosts nothing.

    Each of ``bundles`` are the choices of one device.
    """
    needed: Ints = np.zeros(len(instance.families), dtype=np.int64)
    for held in bundles:
        for c in held:
            capacity, family = instance.capacity_among(c, held), instance.choices[c].family
            fewest = min((step.hosts for step in instance.steps_among(c, held) if step.capacity == capacity), default=0)
            needed[family] = max(needed[family], fewest)
    return needed


def sure_hosts(instance: Instance, placed: Iterable[Placement], rules: Rules) -> Ints:
    """How many hosts each family [F] has left after any loss that plans survive; at least 1 where it has any."""
    devices_of: dict[str, list[str]] = {name: [] for name in instance.families}
    for placement in placed:
        devices_of[placement.family].append(placement.device)
    return np.array([sure_count(devices, rules) for devices in devices_of.values()], dtype=np.int64)


def sure_count(devices: Collection[str], rules: Rules) -> int:
    """The number of devices that are left after any loss that plans survive; at least 1 if there are devices."""
    if rules.survives is None or not devices:
        return len(devices)
    return max(len(devices) - max(Counter(map(rules.unit_of, devices)).values()), 1)


def with_more_hosts(instance: Instance, solution: Solution, rules: Rules) -> Solution:
    """The solution with more replicas on idle devices, where a family has fewer hosts than its batches need.

    More hosts share the family's rate. Served queries and their accuracy stay as they were.
    """
    replicas = kept_replicas(instance, solution, rules)
    idle = np.rint(instance.device_count - instance.group_choices @ replicas).astype(np.int64)
    missing = (
        needed_hosts(instance, ([c] for c in np.flatnonzero(replicas).tolist())) - instance.family_choices @ replicas
    )
    for c in np.flatnonzero(solution.executed_qps > 0).tolist():
        choice = instance.choices[c]
        more = int(max(min(idle[choice.group], missing[choice.family]), 0))
        replicas[c] += more
        idle[choice.group] -= more
        missing[choice.family] -= more
    return replace(solution, replicas=replicas)
