"""Devices and engines that were lost, are back or have joined: the reason for the next plan, and events for people."""

from collections.abc import Collection, Iterable, Iterator
from enum import StrEnum
from itertools import groupby

from proteus_cli.domain.device import by_host, host_of
from proteus_cli.units import counted


class DeviceChanged(StrEnum):
    """A change of a device, as the reason of a re-plan says it."""

    LOST = "was lost"
    BACK = "is back"
    JOINED = "has joined"


_OF_SEVERAL = {
    DeviceChanged.LOST: "were lost",
    DeviceChanged.BACK: "are back",
    DeviceChanged.JOINED: "have joined",
}


class Notices:
    """Notices for the next plan. Each counts once until `clear`."""

    def __init__(self) -> None:
        self._noted: list[tuple[str, DeviceChanged | str]] = []  # a device, or none

    def __bool__(self) -> bool:
        return bool(self._noted)

    def add(self, what: DeviceChanged | str, device: str = "") -> None:
        """Note a change of a device; without a device, ``what`` is the whole reason."""
        if (device, what) not in self._noted:
            self._noted.append((device, what))

    def clear(self) -> None:
        """Forget all notices: a plan was asked for because of them."""
        self._noted.clear()

    def text(self, devices: Collection[str], lost: Collection[str]) -> str:
        """All notices as one reason; ``devices`` and ``lost`` as for `told_by_host`."""
        return "; ".join(text for text, _ in told_by_host(self._noted, devices, lost))


def told_by_host(
    changes: Iterable[tuple[str, DeviceChanged | str]], devices: Collection[str], lost: Collection[str]
) -> Iterator[tuple[str, str]]:
    """The text of each change, and the device that it is about, the first of several.

    Like changes of devices of a host that follow one another are told together. The host itself changed where all of
    its devices, several, did. ``devices`` are all that there are, and some of them are ``lost`` now.
    """
    hosts = by_host(devices)
    for (host, what), noted in groupby(changes, key=lambda each: (host_of(each[0]), each[1])):
        changed = [device for device, _ in noted]
        if not host or len(changed) == 1:
            yield from ((f"{device} {what}".lstrip(), device) for device in changed)
            continue
        is_whole = all((device in lost) is (what == DeviceChanged.LOST) for device in hosts[host])
        several = f"{len(changed)} of {counted(len(hosts[host]), 'device')} of host {host}"
        whole = f"host {host} {what} ({counted(len(changed), 'device')})"
        yield whole if is_whole else f"{several} {_OF_SEVERAL[DeviceChanged(what)]}", changed[0]
