"""Devices that run models, and those that must not be used."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from proteus_cli.domain.base import Value, always, is_count, require


class GpuFacts(Value, frozen=True):
    """Properties of a GPU by the CUDA driver: ``compute_capability`` like ``8.6``, ``driver`` like ``570.86``.

    ``uuid`` is like ``GPU-…``, or ``MIG-…`` of a slice of a GPU; empty where the driver is too old to say it.
    """

    compute_capability: str
    multiprocessors: int
    driver: str
    uuid: str = ""
    is_slice: bool = False

    def __post_init__(self) -> None:
        require(is_count(self.multiprocessors), "multiprocessors must be a count")


class Device(Value, frozen=True, omit_defaults=True):
    """One thing that runs one batch at a time per slot.

    ``id`` is like ``cpu0`` or ``gpu0``, on a host of a cluster like ``a/gpu0``; devices of one ``type`` perform alike
    and share a profile.
    ``cores`` are the CPU numbers of a ``cpu`` device (empty for a ``gpu``); ``memory_bytes`` is what it can use.
    ``gpu`` is None for a CPU, and for a GPU that isn't here.
    """

    id: str
    type: str
    kind: Literal["cpu", "gpu"]
    name: str
    memory_bytes: int
    cores: tuple[int, ...] = always(())
    gpu: GpuFacts | None = None

    def __post_init__(self) -> None:
        require(bool(self.id) and bool(self.type), "a device needs an id and a type")
        texts = (self.id, self.type, self.name)
        require(all(map(str.isprintable, texts)), "the id, type and name of a device must be printable")
        require(is_count(self.memory_bytes), f"memory_bytes of `{self.id}` must be a number of bytes")
        require(all(map(is_count, self.cores)), f"cores of `{self.id}` must be numbers of cores")

    @property
    def host(self) -> str:
        """The host of the cluster that has it, as its id says; empty for this machine."""
        return host_of(self.id)

    def is_like(self, other: "Device") -> bool:
        """Whether both are the same hardware; the type is a name that users may give."""
        mine, theirs = ((each.kind, each.name, len(each.cores)) for each in (self, other))
        return mine == theirs


def host_of(device: str) -> str:
    """The host in the id of a device: ``a`` of ``a/cpu0``; empty for this machine."""
    host, slash, _ = device.partition("/")
    return host if slash else ""


def by_host(devices: Iterable[str]) -> dict[str, list[str]]:
    """The devices of each host, in order. This machine has an empty name."""
    found: dict[str, list[str]] = {}
    for device in devices:
        found.setdefault(host_of(device), []).append(device)
    return found


@dataclass(frozen=True, slots=True)
class Outages:
    """Devices (by id) that are lost, and engines (device, family, variant) that don't load or fail on everything."""

    devices: frozenset[str] = frozenset()
    engines: frozenset[tuple[str, str, str]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.devices or self.engines)


NONE_OUT = Outages()
