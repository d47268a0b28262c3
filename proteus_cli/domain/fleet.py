"""Hypothetical fleets: any number of devices of each profiled type, with made-up ids, also on made-up hosts."""

from collections.abc import Mapping

import msgspec

from proteus_cli.domain.device import Device, host_of
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import UsageError

DeviceCounts = Mapping[str, int]
"""How many devices of each type, or like each profiled device."""


def hypothetical_fleet(counts: DeviceCounts, profiles: Mapping[str, Profile], host: str = "") -> dict[str, Profile]:
    """Profiles by made-up device id (``cpu-0``, ``cpu-1``, …; ``a/cpu-0``, … on a ``host`` a) of a fleet.

    ``counts`` is by device type, or by the id of a profiled device ("four like cpu0"); ``profiles`` by device id. A
    profiled device of the very host comes first. All devices of a name share the very tuple of variants, on all hosts.
    Raises `UsageError` for a name that isn't profiled, or a type whose devices have different profiles.
    """
    place = f"{host}/" if host else ""
    return {
        device: as_device(profile, device)
        for name, count in counts.items()
        for profile in [profiles.get(f"{place}{name}") or _named(name, profiles)]
        for device in (f"{place}{name}-{number}" for number in range(count))
    }


def _named(name: str, profiles: Mapping[str, Profile]) -> Profile:
    profile = profiles.get(name) or of_type(name, profiles)
    if profile is None:
        types = ", ".join(ids_by_type(profiles))
        raise UsageError(f"No profile of any `{name}`.", hint=f"there are profiles of: {types}")
    return profile


def as_device(profile: Profile, device: str) -> Profile:
    """The same measurements for a device of that id and the same type."""
    if profile.device.id == device:
        return profile
    return msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, id=device))


def on_device(profile: Profile, device: Device) -> Profile:
    """The same measurements for a device that is like the one of the profile, and so of its type."""
    return msgspec.structs.replace(profile, device=msgspec.structs.replace(device, type=profile.device.type))


def ids_by_type(profiles: Mapping[str, Profile]) -> dict[str, tuple[str, ...]]:
    """The devices of each type, in the order of ``profiles`` by device id."""
    ids: dict[str, list[str]] = {}
    for device, profile in profiles.items():
        ids.setdefault(profile.device.type, []).append(device)
    return {device_type: tuple(devices) for device_type, devices in ids.items()}


def base_name(device: str) -> str:
    """The base of a made-up name: ``v100-3`` → ``v100``, ``a/v100-3`` → ``a/v100``. Other ids are unchanged."""
    name, _, number = device.rpartition("-")
    return name if name and number.isdigit() else device


def origins(device: str) -> tuple[str, ...]:
    """The ids of devices whose profile a device may have, the likeliest first: its own, then its base names.

    ``a/v100-3`` → ``a/v100-3``, ``a/v100``, ``v100``.
    """
    name = base_name(device)
    if name == device:
        return (device,)
    on_host = name.removeprefix(f"{host_of(device)}/")
    return (device, name) if on_host == name else (device, name, on_host)


def of_type(device_type: str, profiles: Mapping[str, Profile]) -> Profile | None:
    """The profile that all devices of a type share. Raises `UsageError` where theirs differ."""
    alike = [profile for profile in profiles.values() if profile.device.type == device_type]
    if any(profile.variants != alike[0].variants for profile in alike[1:]):
        ids = ", ".join(profile.device.id for profile in alike)
        raise UsageError(
            f"The devices of type `{device_type}` have different profiles.", hint=f"name one of them: {ids}"
        )
    return alike[0] if alike else None
