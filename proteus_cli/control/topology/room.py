"""Room to load beside what serves: on each device, and on a host, whose CPUs share its memory."""

from collections import defaultdict
from collections.abc import Mapping

from proteus_cli.domain.catalog import VariantKey, VariantsByDevice
from proteus_cli.domain.device import host_of
from proteus_cli.domain.profile import Profile

KEPT_FREE_FRAC = 0.1  # of the free memory of a host: for batches, and for whatever else runs there


def without_room_beside(
    wanted: VariantsByDevice,
    resident: VariantsByDevice,
    profiles: Mapping[str, Profile],
    free_bytes: Mapping[str, int],
) -> frozenset[str]:
    """The devices that have no memory for what is ``wanted`` beside what is ``resident``, and so load in place.

    Nothing is known of the memory of devices that ``profiles`` leave out; ``free_bytes`` as for `without_room`.
    """
    known = [device for device in wanted if device in profiles]
    full = {device for device in known if not _fits(profiles[device], wanted[device], resident[device])}
    needed = {
        device: profiles[device].needed_bytes(wanted[device] - resident[device])
        for device in known
        if device not in full and profiles[device].device.kind == "cpu"
    }
    return frozenset(full | {device for device in without_room(needed, free_bytes) if resident[device]})


def _fits(profile: Profile, wanted: frozenset[VariantKey], resident: frozenset[VariantKey]) -> bool:
    memory_bytes = profile.device.memory_bytes
    is_beside = bool(resident) and not wanted <= resident
    return not (is_beside and memory_bytes) or profile.needed_bytes(wanted | resident) <= memory_bytes


def without_room(needed_bytes: Mapping[str, int], free_bytes: Mapping[str, int]) -> set[str]:
    """The devices that must free what they have before they load, as their host has too little memory for all.

    ``needed_bytes`` by device: what its loads take; ``free_bytes`` by host, of those where it is known. Those that need
    the least come first, so that as few as can be stop to serve.
    """
    left_bytes = {host: free * (1 - KEPT_FREE_FRAC) for host, free in free_bytes.items()}
    by_host = defaultdict[str, list[str]](list)
    for device in sorted(needed_bytes, key=lambda device: (needed_bytes[device], device)):
        by_host[host_of(device)].append(device)
    found = set()
    for host in by_host.keys() & left_bytes.keys():
        for device in by_host[host]:
            left_bytes[host] -= needed_bytes[device]
            if needed_bytes[device] and left_bytes[host] < 0:
                found.add(device)
    return found
