"""How many hosts a family needs for the batches of its plan, and idle devices that make up for missing ones."""

from dataclasses import replace

import numpy as np

from proteus_cli.domain.arrays import Ints
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.instance import Instance
from proteus_cli.planning.lexicographic import Solution


def kept_replicas(instance: Instance, solution: Solution, rules: Rules) -> Ints:
    """The replicas of each choice [C] that become placements: without those that answer nothing, unless asked for.

    With a forecast, those are there for bursts.
    """
    is_asked_for = bool(rules.survive) or solution.is_forecast
    kept: Ints = np.where((solution.rate_qps > 0) | is_asked_for, solution.replicas, instance.pinned)
    return kept.astype(np.int64)


def needed_hosts(instance: Instance, replicas: Ints) -> Ints:
    """The fewest hosts of each family [F] with which the capacities of what it hosts hold; 0 where it hosts nothing."""
    needed: Ints = np.zeros(len(instance.families), dtype=np.int64)
    for c in np.flatnonzero(replicas).tolist():
        choice = instance.choices[c]
        fewest = min(step.hosts for step in choice.capacity_steps if step.capacity == choice.capacity)
        needed[choice.family] = max(needed[choice.family], fewest)
    return needed


def with_more_hosts(instance: Instance, solution: Solution, rules: Rules) -> Solution:
    """The solution with more replicas on idle devices, where a family has fewer hosts than its batches need.

    More hosts share the family's rate. What is served, and how accurately, stays as it was.
    """
    replicas = kept_replicas(instance, solution, rules)
    idle = np.rint(instance.device_count - instance.group_choices @ replicas).astype(np.int64)
    missing = needed_hosts(instance, replicas) - instance.family_choices @ replicas
    for c in np.flatnonzero(solution.rate_qps > 0).tolist():
        choice = instance.choices[c]
        more = int(max(min(idle[choice.group], missing[choice.family]), 0))
        replicas[c] += more
        idle[choice.group] -= more
        missing[choice.family] -= more
    return replace(solution, replicas=replicas)
