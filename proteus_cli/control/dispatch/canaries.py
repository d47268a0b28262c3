"""Two versions of a variant that serve at the same time, and which requests the new one answers.

While a version is rolled out, requests of its family belong to one of two *arms*. Requests of the *canary* arm may be
answered by all hosts except the old version's, others by all except the new one's. In this way the new version answers
canaries in place of the old one, and the rest of the plan stays as it is. Where the new version serves nowhere, or
cannot keep the bounds of a request, canaries are answered as all others. Where no plan has the old version any more,
the new one is a variant like others.

Both arms have the same shares and the same room: in its arm, each version stands for both.
"""

from collections.abc import Sequence
from dataclasses import replace

from proteus_cli.control.decision import HostedVariant
from proteus_cli.domain.rollouts import VersionPair


def standing_for_both(hosts: Sequence[HostedVariant], pair: VersionPair) -> list[HostedVariant]:
    """The hosts with the rates and capacities that they have in their arm: each version with the sums of both.

    A version without a share gets, on each device, the values of the other, for clients that ask for it by name.
    """
    of_old = [host for host in hosts if host.variant == pair.old]
    of_new = [host for host in hosts if host.variant == pair.new]
    factors = {
        each[0].variant: (
            _ratio(sum(h.weight for h in (*of_old, *of_new)), sum(h.weight for h in each)),
            _ratio(sum(h.capacity_qps for h in (*of_old, *of_new)), sum(h.capacity_qps for h in each)),
        )
        for each in (of_old, of_new)
        if each
    }
    without_share = {each[0].variant for each in (of_old, of_new) if each and not sum(h.capacity_qps for h in each)}
    other_on = {h.device: h for h in (*of_old, *of_new) if h.variant not in without_share}
    return [
        _with_share_of(host, other_on.get(host.device))
        if host.variant in without_share
        else _scaled(host, *factors.get(host.variant, (1.0, 1.0)))
        for host in hosts
    ]


def _with_share_of(host: HostedVariant, other: HostedVariant | None) -> HostedVariant:
    return host if other is None else replace(host, weight=other.weight, capacity_qps=other.capacity_qps)


def _ratio(both: float, own: float) -> float:
    return both / own if own > 0 else 1.0


def _scaled(host: HostedVariant, weight: float, capacity: float) -> HostedVariant:
    if weight == 1.0 and capacity == 1.0:
        return host
    return replace(host, weight=host.weight * weight, capacity_qps=host.capacity_qps * capacity)
