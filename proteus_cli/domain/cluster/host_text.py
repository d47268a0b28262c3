"""Devices and the hosts that they are on, in words."""

from collections.abc import Iterable

from proteus_cli.domain.device import by_host
from proteus_cli.units import counted

_MAX_NAMED = 3


def short_names(devices: Iterable[str], fleet: Iterable[str]) -> list[str]:
    """``["host a", "b/cpu1", "cpu0"]``: hosts of which all devices are meant, if several; else devices."""
    of_hosts, names = by_host(fleet), list[str]()
    for host, chosen in by_host(devices).items():
        is_whole = bool(host) and 1 < len(of_hosts.get(host, ())) <= len(chosen)
        names += [f"host {host}"] if is_whole else chosen
    return names


def whereabouts(devices: Iterable[str]) -> str:
    """``"a"``, ``"2 each on a, b"``, ``"3 on a, 1 on b"`` or ``"8 each on 100 hosts"``: where devices are."""
    counts = {host or "this machine": len(of_host) for host, of_host in by_host(devices).items()}
    if len(counts) == 1:
        return next(iter(counts))
    is_even = len(set(counts.values())) == 1
    hosts = ", ".join(counts) if len(counts) <= _MAX_NAMED else counted(len(counts), "host")
    if is_even:
        return f"{next(iter(counts.values()))} each on {hosts}"
    return ", ".join(f"{count} on {host}" for host, count in counts.items()) if len(counts) <= _MAX_NAMED else hosts
