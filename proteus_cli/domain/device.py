"""What models run on."""

from typing import Literal

from proteus_cli.domain.base import Value, require


class Device(Value, frozen=True):
    """One thing that runs one batch at a time per slot.

    ``id`` is like ``cpu0`` or ``gpu0``; devices of one ``type`` perform alike and share a profile.
    ``cores`` are the CPU numbers of a ``cpu`` device (empty for a ``gpu``); ``memory_bytes`` is what it can use.
    """

    id: str
    type: str
    kind: Literal["cpu", "gpu"]
    name: str
    memory_bytes: int
    cores: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.id) and bool(self.type), "a device needs an id and a type")
        require(self.memory_bytes >= 0, f"memory_bytes of `{self.id}` must not be negative")
