"""What the knee of a device depends on, as far as the controller knows it."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import host_of


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a device hosts, for how many servers it works, and which devices of its host serve beside it."""

    hosted: frozenset[VariantKey]
    servers: int
    neighbours: frozenset[str]


def surroundings(
    devices: Iterable[str],
    serving: Collection[str],
    hosted_on: Callable[[str], Iterable[VariantKey]],
    servers: Mapping[str, int],
) -> dict[str, Surroundings]:
    """The surroundings of each device; ``serving`` are all devices that are not lost and host something."""
    by_host: dict[str, set[str]] = {}
    for device in serving:
        by_host.setdefault(host_of(device), set()).add(device)
    return {
        device: Surroundings(
            frozenset(hosted_on(device)),
            servers.get(device, 1),
            frozenset(by_host.get(host_of(device), set()) - {device}),
        )
        for device in devices
    }
