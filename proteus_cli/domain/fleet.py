"""Hypothetical fleets: any number of devices of each profiled type, with made-up ids."""

from collections.abc import Mapping

import msgspec

from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_assignments

MAX_DEVICES = 100_000

_MAX_DIGITS = 18
_EXAMPLE = "write it like `--fleet cpu:20,v100:10`"


def fleet_of(profiles: Mapping[str, Profile], fleet: str | None) -> Mapping[str, Profile]:
    """Profiles by device id: those given, or of a fleet like ``"cpu:20,v100:10"`` of such. Raises `UsageError`."""
    return profiles if fleet is None else hypothetical_fleet(parse_fleet(fleet), profiles)


def parse_fleet(text: str) -> dict[str, int]:
    """``"cpu:20,v100:10"`` → how many devices of each type, or like each device. Raises `UsageError`."""
    counts = {name: _count(name, count) for name, count in parse_assignments(text, "The fleet", ":").items()}
    if sum(counts.values()) > MAX_DEVICES:
        raise UsageError(f"The fleet has more than {MAX_DEVICES:,} devices.", hint="make it smaller")
    return counts


def _count(name: str, text: str | None) -> int:
    if not name or text is None:
        part = name if text is None else f"{name}:{text}"
        raise UsageError(f"`{part}` in the fleet is no type with a count.", hint=_EXAMPLE)
    is_count = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text) > 0
    if not is_count:
        raise UsageError(f"`{text}` is no count of `{name}` devices.", hint=f"give 1 or more; {_EXAMPLE}")
    return int(text)


def hypothetical_fleet(counts: Mapping[str, int], profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """Profiles by made-up device id (``cpu-0``, ``cpu-1``, …) of a fleet.

    ``counts`` is by device type, or by the id of a profiled device ("four like cpu0"); ``profiles`` by device id.
    All devices of a name share the very tuple of variants. Raises `UsageError` for a name that isn't profiled, or a
    type whose devices have different profiles.
    """
    return {
        device: as_device(profile, device)
        for name, count in counts.items()
        for profile in [_named(name, profiles)]
        for device in (f"{name}-{number}" for number in range(count))
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
    """What a made-up device was named after: ``v100-3`` → ``v100``; any other id as it is."""
    name, _, number = device.rpartition("-")
    return name if name and number.isdigit() else device


def profile_for(device: str, device_type: str, profiles: Mapping[str, Profile]) -> Profile | None:
    """The profile of the device, or of what it was named after, where that is of its type."""
    found = (profiles.get(name) for name in (device, base_name(device)))
    return next((profile for profile in found if profile is not None and profile.device.type == device_type), None)


def of_type(device_type: str, profiles: Mapping[str, Profile]) -> Profile | None:
    """The profile that all devices of a type share. Raises `UsageError` where theirs differ."""
    alike = [profile for profile in profiles.values() if profile.device.type == device_type]
    if any(profile.variants != alike[0].variants for profile in alike[1:]):
        ids = ", ".join(profile.device.id for profile in alike)
        raise UsageError(
            f"The devices of type `{device_type}` have different profiles.", hint=f"name one of them: {ids}"
        )
    return alike[0] if alike else None
