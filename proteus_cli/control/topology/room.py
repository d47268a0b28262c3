"""Room on a host: CPUs share its memory, so what all of them load beside what serves must fit what is free."""

from collections import defaultdict
from collections.abc import Mapping

from proteus_cli.domain.device import host_of

KEPT_FREE_FRAC = 0.1  # of the free memory of a host: for batches, and for whatever else runs there


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
