"""From arrays back to names: counts per group become placements on devices."""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.planning.instance import Instance
from proteus_cli.planning.solve import Solution

NEGLIGIBLE_QPS = 1e-6


def placements(
    instance: Instance, solution: Solution, demand_qps: Mapping[str, float], current: Plan | None
) -> tuple[Placement, ...]:
    """Placements by device, where each keeps what it hosts in ``current`` as far as the counts allow.

    ``demand_qps`` is without headroom. What hosts nothing of the solution's rate is left out.
    """
    hosts = np.where(solution.rate_qps > NEGLIGIBLE_QPS, solution.hosts, 0)
    rate_of_family = instance.of_family @ solution.rate_qps
    found = []
    for device, choice_index in _assigned(instance, hosts, current):
        choice = instance.choices[choice_index]
        family = instance.families[choice.family]
        rate_qps = float(solution.rate_qps[choice_index] / hosts[choice_index])
        share = rate_qps / float(rate_of_family[choice.family])
        served_qps = min(demand_qps[family], float(rate_of_family[choice.family]))
        found.append(
            Placement(
                device=device,
                family=family,
                variant=choice.measured.variant,
                max_batch=choice.capacity.max_batch,
                rate_qps=share * served_qps,
                share=share,
                capacity_qps=choice.capacity.qps,
            )
        )
    order = {device: position for position, device in enumerate(d for group in instance.groups for d in group.devices)}
    return tuple(sorted(found, key=lambda placement: order[placement.device]))


def _assigned(instance: Instance, hosts: npt.NDArray[np.int64], current: Plan | None) -> Iterator[tuple[str, int]]:
    """(device, choice index) pairs. With one variant per device, keeping all that can be kept is a best matching."""
    hosted = current.hosted() if current is not None else {}
    for g, group in enumerate(instance.groups):
        left = {c: int(hosts[c]) for c, choice in enumerate(instance.choices) if choice.group == g and hosts[c] > 0}
        free = list(group.devices)
        for c in left:
            name = (instance.families[instance.choices[c].family], instance.choices[c].measured.variant)
            for device in [d for d in free if name in hosted.get(d, ())][: left[c]]:
                free.remove(device)
                left[c] -= 1
                yield device, c
        for c, count in left.items():
            for _ in range(count):
                yield free.pop(0), c
