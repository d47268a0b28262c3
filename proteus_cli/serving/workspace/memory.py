"""The memory of devices that variants may take, from the setting ``memory``."""

from collections.abc import Mapping, Sequence

from proteus_cli.domain.device import Device
from proteus_cli.domain.rules import selects
from proteus_cli.errors import UsageError
from proteus_cli.units import format_size

DEFAULT_FRAC = 0.5
"""The part of a device's memory for variants: the rest is for batches, other programs, and loads beside them."""


def memory_limits(
    given: Mapping[str, int] | None, devices: Mapping[str, Device], free_bytes: int | None = None
) -> dict[str, int]:
    """The bytes that variants may take of each device, as ``given`` by `parse_sizes`.

    Devices that are left out get `DEFAULT_FRAC` of their memory; CPUs of this machine, which share that, no more than
    that part of an equal share of the ``free_bytes`` here. Raises `UsageError`.
    """
    given = given or {}
    cpus = sum(device.kind == "cpu" and not device.host for device in devices.values())
    for name in given:
        if name and not any(selects(name, device) for device in devices.values()):
            known = dict.fromkeys([*(device.type for device in devices.values()), *devices])
            raise UsageError(
                f"`memory` names `{name}`, which is no device of the plan, and no type of one.",
                hint=f"there are: {', '.join(known)}",
            )
    limits = {}
    for name, device in devices.items():
        own = _given(given, device)
        if own is None:
            own = _part(device, free_bytes if not device.host else None, cpus)
        elif 0 < device.memory_bytes < own:
            raise UsageError(
                f"`memory` gives variants {format_size(own)} of `{name}`, which has "
                f"{format_size(device.memory_bytes)}.",
                hint="give it less; devices on the cores of one machine have equal shares of its memory",
            )
        limits[name] = own
    return limits


def limits_of_host(
    given: Mapping[str, int] | None, devices: Sequence[Device], free_bytes: int | None
) -> dict[str, int]:
    """As `memory_limits`, of the devices of a host that join a server: what is given for other devices is no error.

    They get what is given for them as far as they have it. CPUs share the ``free_bytes`` of their host.
    """
    cpus, limits = sum(device.kind == "cpu" for device in devices), {}
    for device in devices:
        own = _given(given or {}, device)
        limits[device.id] = _part(device, free_bytes, cpus) if own is None else min(own, device.memory_bytes or own)
    return limits


def _given(given: Mapping[str, int], device: Device) -> int | None:
    return next((given[key] for key in (device.id, device.type, "") if key in given), None)


def _part(device: Device, free_bytes: int | None, cpus: int) -> int:
    """The memory that variants may take by default; CPUs have equal shares of the free memory."""
    share = device.memory_bytes
    if device.kind == "cpu" and free_bytes is not None:
        share = min(share, free_bytes // cpus)
    return round(DEFAULT_FRAC * share)
