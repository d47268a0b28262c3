"""Devices and engines that were lost, are back or have joined, as the reason for the next plan."""

from collections.abc import Collection
from enum import StrEnum
from itertools import groupby

from proteus_cli.domain.device import by_host, host_of
from proteus_cli.units import counted


class DeviceChanged(StrEnum):
    """What became of a device, as the reason of a re-plan says it."""

    LOST = "was lost"
    BACK = "is back"
    JOINED = "has joined"


_OF_SEVERAL = {
    DeviceChanged.LOST: "were lost",
    DeviceChanged.BACK: "are back",
    DeviceChanged.JOINED: "have joined",
}


class Notices:
    """Each notice counts once until `clear`. Devices of a host that follow one another are told together."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, DeviceChanged | str]] = []  # a device, or none

    def __bool__(self) -> bool:
        return bool(self._noted)

    def add(self, what: DeviceChanged | str, device: str = "") -> None:
        """Something happened to a device; or ``what`` is the whole reason."""
        if (device, what) not in self._noted:
            self._noted.append((device, what))

    def clear(self) -> None:
        """Forget all that was noted: a plan was asked for because of it."""
        self._noted.clear()

    def text(self, devices: Collection[str], lost: Collection[str]) -> str:
        """All notices as one reason. A host was lost, is back or has joined where all of its devices, several, are.

        ``devices`` are all that there are, of which some are ``lost`` now.
        """
        hosts, parts = by_host(devices), list[str]()
        for (host, what), noted in groupby(self._noted, key=lambda each: (host_of(each[0]), each[1])):
            changed = [device for device, _ in noted]
            if not host or len(changed) == 1:
                parts += [f"{device} {what}".lstrip() for device in changed]
                continue
            is_whole = all((device in lost) is (what == DeviceChanged.LOST) for device in hosts[host])
            several = f"{len(changed)} of {counted(len(hosts[host]), 'device')} of host {host}"
            whole = f"host {host} {what} ({counted(len(changed), 'device')})"
            parts.append(whole if is_whole else f"{several} {_OF_SEVERAL[DeviceChanged(what)]}")
        return "; ".join(parts)
