"""The option ``--fleet``: devices by type, also on hosts."""

from collections.abc import Mapping

from proteus_cli.domain.catalog import is_name
from proteus_cli.domain.cluster import MAX_HOSTS
from proteus_cli.domain.fleet import hypothetical_fleet
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import UsageError
from proteus_cli.units import parse_assignments

MAX_DEVICES = 100_000

_MAX_DIGITS = 18
_EXAMPLE = "write it like `--fleet cpu:20,v100:10`"
_HOSTS_EXAMPLE = "write it like `--fleet 'a=cpu:4,gpu:1;b=cpu:4'`"


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
