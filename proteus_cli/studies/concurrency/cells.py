"""The cells of a study of concurrency: what varies, and in which steps."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.studies.results import StudiedWay

BESIDE_SLOTS = 2
"""More batches in flight than slots: those wait in the device's process, so that it never waits for the server."""
MAX_IN_FLIGHT = 16
MAX_SPLITS = 8  # each is a process with a copy of the model
AHEAD = 2  # batches in flight on each device where something else varies: one runs, one waits


@dataclass(frozen=True, slots=True)
class StudiedLevel:
    """One value of what varies: these devices, and on each so many batches in flight."""

    number: int
    devices: tuple[Device, ...]
    in_flight: int


@dataclass(frozen=True, slots=True)
class ConcurrencyCell:
    """A variant with a batch size, and what varies."""

    key: VariantKey
    batch: int
    way: StudiedWay

    def name(self, label: str) -> str:
        """What it is called within the study: ``"digits-l ×8, in flight in a process"``."""
        return f"{label} ×{self.batch}, {_WAYS[self.way]}"


_WAYS: dict[StudiedWay, str] = {
    "thread": "in flight in a thread", "process": "in flight in a process", "emulated": "in flight, emulated",
    "threads": "threads", "split": "devices of the same cores",
}  # fmt: skip


def ways_of(device: Device, *, emulated: bool) -> tuple[StudiedWay, ...]:
    """What can vary on a device: a GPU always has a process; one core has nothing to divide."""
    if emulated:
        return ("emulated",)
    if device.kind == "gpu":
        return ("process",)
    return ("thread", "process", *(("threads", "split") if len(device.cores) > 1 else ()))


def levels_of(way: StudiedWay, device: Device, slots: int, max_in_flight: int | None) -> list[StudiedLevel]:
    """The steps of what varies; ``max_in_flight`` batches in flight, else a few more than the device has slots."""
    match way:
        case "threads":
            steps = _doubling(len(device.cores))
            return [StudiedLevel(n, (_part(device, f"t{n}", device.cores[:n]),), AHEAD) for n in steps]
        case "split":
            return [
                StudiedLevel(n, tuple(_parts(device, n)), AHEAD) for n in _doubling(min(len(device.cores), MAX_SPLITS))
            ]
        case _:
            last = max_in_flight if max_in_flight is not None else slots + BESIDE_SLOTS
            steps = list(range(1, last + 1)) if last <= MAX_SPLITS else _doubling(last)
            return [StudiedLevel(n, (device,), n) for n in steps]


def _doubling(last: int) -> list[int]:
    """1, 2, 4 … and the largest."""
    steps = [2**power for power in range(last.bit_length()) if 2**power <= last]
    return steps if steps[-1] == last else [*steps, last]


def _parts(device: Device, number: int) -> Iterator[Device]:
    """So many devices with an equal part of the cores each; cores that are left over are not used."""
    cores = len(device.cores) // number
    for place in range(number):
        yield _part(device, f"s{number}.{place}", device.cores[place * cores : (place + 1) * cores])


def _part(device: Device, name: str, cores: tuple[int, ...]) -> Device:
    return msgspec.structs.replace(device, id=f"{device.id}-{name}", cores=cores)
