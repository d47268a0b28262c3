"""Which hosts of a family come first, where it prefers something else than accuracy.

Dispatch has the most accurate hosts come first: a free host takes over at once from those that are no more accurate,
and from others only what is too much for them. With another preference, ranks take the place of accuracies. Hosts that
take nearly as much are of one rank, so that a free one helps at once.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from proteus_cli.control.decision import Host
from proteus_cli.domain.catalog import Preference

ALIKE: Mapping[Preference, float] = {"latency": 3.0, "energy": 1.1, "cost": 1.0, "accuracy": 1.0}
"""Hosts that take up to so many times what the first of their rank does are of that rank.

Of latency: to wait for a host that is busy takes the rest of its batch, which is of several rows under load, and then
its own. Up to 3 times slower, a free host answers sooner in the mean; from 4 times on it depends on the load
(`tests/parity/test_ranks.py`). Of energy: what a profile is off by before its cells count as noisy.
"""


def ranked(hosts: Iterable[Host], preferred: Mapping[str, Preference]) -> tuple[Host, ...]:
    """The hosts, with ranks in the families that have a preference: from 0 down."""
    hosts = tuple(hosts)
    ranks = {family: _ranks([each for each in hosts if each.family == family], of) for family, of in preferred.items()}
    return tuple(
        replace(host, preference_rank=ranks[host.family][_amount(host, preferred[host.family])])
        if host.family in ranks
        else host
        for host in hosts
    )


def _ranks(hosts: Iterable[Host], preferred: Preference) -> Mapping[float, float]:
    """The rank of each amount that hosts take."""
    found: dict[float, float] = {}
    rank, first = 1.0, -1.0
    for amount in sorted({_amount(host, preferred) for host in hosts}):
        if not 0 <= first <= amount <= first * ALIKE[preferred]:
            rank, first = rank - 1.0, amount
        found[amount] = rank
    return found


def _amount(host: Host, preferred: Preference) -> float:
    """Seconds of a lone query, or joules of one in a full batch. A device costs the same whatever it answers."""
    match preferred:
        case "latency":
            return host.latency(1)
        case "energy":
            return math.inf if host.power_w is None else host.energy_j(1, host.max_batch)
        case "cost" | "accuracy":
            return 0.0
