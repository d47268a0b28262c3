"""What a server can count on of a device that several servers share.

Batches of the servers take turns, so that each server has the same part of a device's time while all of them want it.
A server plans and serves as if the device were its own, and so many times slower, with so much less memory.
"""

from collections.abc import Mapping

import msgspec

from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Point, Profile, VariantProfile


def shared_profile(profile: Profile, servers: int) -> Profile:
    """The profile of a device as one of so many servers has it. Loads take as long as ever."""
    if servers == 1:
        return profile
    device = msgspec.structs.replace(profile.device, memory_bytes=profile.device.memory_bytes // servers)
    variants = tuple(_shared_variant(measured, servers) for measured in profile.variants)
    return msgspec.structs.replace(profile, device=device, variants=variants)


def with_shares(plan: Plan, before: Mapping[str, int], now: Mapping[str, int]) -> Plan:
    """The same plan with the capacities that it has where other numbers of servers share some devices ``now``."""
    placements = tuple(
        msgspec.structs.replace(each, capacity_qps=each.capacity_qps * before[each.device] / now[each.device])
        if each.device in now
        else each
        for each in plan.placements
    )
    return msgspec.structs.replace(plan, placements=placements)


def counted_s(alone_s: float, waited_s: float, servers: int) -> float:
    """What a batch took, to be compared with the `shared_profile`: it ran for ``alone_s``, after it had waited.

    A wait for one turn of each other server is in the profile. A longer one is not: their batches are longer.
    """
    return max(servers * alone_s, alone_s + waited_s)


def _shared_variant(measured: VariantProfile, servers: int) -> VariantProfile:
    points, concurrent = (
        tuple(_shared_point(point, servers) for point in each) for each in (measured.points, measured.concurrent)
    )
    return msgspec.structs.replace(measured, points=points, concurrent=concurrent)


def _shared_point(point: Point, servers: int) -> Point:
    return msgspec.structs.replace(
        point,
        mean_s=point.mean_s * servers,
        p50_s=point.p50_s * servers,
        p90_s=point.p90_s * servers,
        p95_s=point.p95_s * servers,
        p99_s=point.p99_s * servers,
        qps=point.qps / servers,
    )
