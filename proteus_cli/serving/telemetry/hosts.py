"""The hosts of the cluster as status, page and terminal show them: how each is, and how many of its devices serve."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from proteus_cli.domain.base import Count
from proteus_cli.domain.device import by_host
from proteus_cli.serving.devices.remote.links.link_state import LinkState
from proteus_cli.serving.fleet.fleet import Fleet

_NOT_LISTED = "it is not listed any more"


class HostState(StrEnum):
    """Whether a host can be used."""

    CONNECTED = "connected"
    LOST = "lost"


class HostStatus(Struct, frozen=True):
    """A host of the cluster. Null: not known; an emulated host has no agent, and is lost with its last device."""

    state: HostState
    state_s: Annotated[float | None, Meta(description="Seconds since it is connected, or lost.")]
    reason: Annotated[str, Meta(description="Why it is lost.")]
    address: Annotated[str | None, Meta(description="Of its agent.")]
    devices: Annotated[Count, Meta(description="Its devices; their ids begin with its name.")]
    working: Annotated[Count, Meta(description="Devices whose breaker is closed.")]
    servers: Annotated[Count, Meta(description="That share its devices, this one included: the most of any device.")]
    losses: Annotated[Count | None, Meta(description="How often the host was lost.")]
    round_trip_s: Annotated[float | None, Meta(description="To its agent and back: the shortest of the last seconds.")]
    bytes_sent: Annotated[Count | None, Meta(description="To its agent, since the start.")]
    bytes_received: Annotated[Count | None, Meta(description="From its agent, since the start.")]
    listed: Annotated[bool, Meta(description="Whether the list of hosts has it; else it was taken out.")] = True


def host_statuses(fleet: Fleet, links: Mapping[str, LinkState], now_s: float) -> dict[str, HostStatus]:
    """The hosts by name: those with devices, and those with ``links``. Empty without a cluster."""
    devices = by_host(fleet.workers)
    devices.pop("", None)
    found = {}
    for host in devices | dict.fromkeys(links):
        of_host, link = devices.get(host, []), links.get(host)
        working = sum(fleet.breakers[device].is_closed for device in of_host)
        servers = max((fleet.workers[device].servers for device in of_host), default=1)
        is_there = link.is_connected if link is not None else working > 0
        state = HostState.CONNECTED if is_there else HostState.LOST
        if link is None:
            # A cluster without a link to a host has left it alone; emulated hosts have no links at all.
            reason = "" if is_there else _NOT_LISTED if links else fleet.breakers[of_host[0]].reason or ""
            found[host] = HostStatus(
                state, None, reason, None, len(of_host), working, servers, None, None, None, None, listed=not links
            )
        else:
            found[host] = HostStatus(
                state, max(0.0, now_s - link.since_s), link.why, link.address, len(of_host), working, servers,
                link.losses, link.round_trip_s, link.bytes_sent, link.bytes_received,
                listed=link.is_listed,
            )  # fmt: skip
    return found
