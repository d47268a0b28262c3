"""Hypothetical fleets: any number of devices of each profiled type, with made-up ids, also on made-up hosts."""

from collections.abc import Mapping

import msgspec

from proteus_cli.domain.catalog import is_name
from proteus_cli.domain.cluster import MAX_HOSTS
from proteus_cli.domain.device import Device, host_of
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_assignments

DeviceCounts = Mapping[str, int]
"""How many devices of each type, or like each profiled device."""


MAX_DEVICES = 100_000

_MAX_DIGITS = 18
_EXAMPLE = "write it like `--fleet cpu:20,v100:10`"
_HOSTS_EXAMPLE = "write it like `--fleet 'a=cpu:4,gpu:1;b=cpu:4'`"


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


# --- as text


def fleet_of(profiles: Mapping[str, Profile], fleet: str | None) -> Mapping[str, Profile]:
    """The profiles by device id; with a ``fleet`` (`parse_fleet`), of its devices. Raises `UsageError`."""
    if fleet is None:
        return profiles
    found: dict[str, Profile] = {}
    for host, counts in parse_fleet(fleet).items():
        made_up = hypothetical_fleet(counts, profiles, host)
        if twice := found.keys() & made_up.keys():
            raise UsageError(f"The fleet has `{min(twice)}` twice.", hint=_HOSTS_EXAMPLE)
        found |= made_up
    return found


def parse_fleet(text: str) -> dict[str, dict[str, int]]:
    """``"cpu:20,v100:10"``, or on hosts ``"a=cpu:4,gpu:1;b=cpu:4"`` → `DeviceCounts` by host, empty for none.

    Raises `UsageError`.
    """
    found: dict[str, dict[str, int]] = {}
    for part in text.split(";"):
        host, on_host, counts = (piece.strip() for piece in part.rpartition("="))
        if on_host and not is_name(host):
            raise UsageError(
                f"`{host}` in the fleet is no name of a host.",
                hint=f"use letters, digits, `.`, `_`, `-`; {_HOSTS_EXAMPLE}",
            )
        if host in found:
            whose = f"the host `{host}`" if on_host else "devices of no host"
            raise UsageError(
                f"The fleet names {whose} twice.",
                hint=f"separate hosts by semicolons and their devices by commas; {_HOSTS_EXAMPLE}",
            )
        found[host] = _counts(counts, f"Host `{host}` of the fleet" if on_host else "The fleet")
    if len(found) > MAX_HOSTS:
        raise UsageError(f"The fleet has more than {MAX_HOSTS:,} hosts.", hint="make it smaller")
    if sum(sum(counts.values()) for counts in found.values()) > MAX_DEVICES:
        raise UsageError(f"The fleet has more than {MAX_DEVICES:,} devices.", hint="make it smaller")
    return found


def _counts(text: str, whose: str) -> dict[str, int]:
    return {name: _count(name, count) for name, count in parse_assignments(text, whose, ":").items()}


def _count(name: str, text: str | None) -> int:
    if not name or text is None:
        part = name if text is None else f"{name}:{text}"
        raise UsageError(f"`{part}` in the fleet is no type with a count.", hint=_EXAMPLE)
    is_count = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text) > 0
    if not is_count:
        raise UsageError(f"`{text}` is no count of `{name}` devices.", hint=f"give 1 or more; {_EXAMPLE}")
    return int(text)
