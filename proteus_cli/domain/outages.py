"""Devices and engines that plans must not use at the moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outages:
    """Devices (by id) that are lost, and engines (device, family, variant) that don't load or fail on everything."""

    devices: frozenset[str] = frozenset()
    engines: frozenset[tuple[str, str, str]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.devices or self.engines)


NONE_OUT = Outages()
