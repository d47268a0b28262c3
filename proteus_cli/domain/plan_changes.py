"""Changes of plan in words."""

from collections.abc import Iterable, Mapping, Sequence

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import by_host
from proteus_cli.domain.plan import Plan
from proteus_cli.units import counted, format_duration

MAX_PARTS = 4
"""Devices that change alike share a part of the text; further ones are only counted."""

_MAX_NAMED = 3


def hosting_text(
    before: Plan, after: Plan, load_s: Mapping[tuple[str, VariantKey], float], labels: Mapping[VariantKey, str]
) -> str:
    """``"cpu1: faces-large → faces-small (loaded in 80 ms)"``: the devices that host other variants than ``before``.

    ``load_s`` has the seconds of the loads of the change, by device and variant. Other new variants were warm.
    ``labels`` are the names of all variants (`variant_labels`). At most `MAX_PARTS` parts and a count.
    """
    if after.hosts_as(before):
        return "the same variants"
    old, new = before.by_device(), after.by_device()
    parts: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for device in new | old:
        was, now = ([each.key for each in placed.get(device, ())] for placed in (old, new))
        if set(was) == set(now):
            continue
        hosts = " → ".join(", ".join(labels[key] for key in keys) or "nothing" for keys in (was, now))
        loads_s = [load_s[device, key] for key in now if (device, key) in load_s and key not in was]
        how = "loaded in" if loads_s else "was warm" if set(now) - set(was) else ""
        parts.setdefault((hosts, how), []).append((device, max(loads_s, default=0.0)))
    texts = [_part(hosts, how, devices, new | old) for (hosts, how), devices in parts.items()]
    if len(texts) > MAX_PARTS:
        others = sum(len(devices) for devices in list(parts.values())[MAX_PARTS:])
        texts[MAX_PARTS:] = [counted(others, "more device")]
    return "; ".join(texts) or "the same variants"


def _part(hosts: str, how: str, devices: Sequence[tuple[str, float]], fleet: Iterable[str]) -> str:
    names, longest_s = _short_names([device for device, _ in devices], fleet), max(load_s for _, load_s in devices)
    who = ", ".join(names) if len(names) <= _MAX_NAMED else f"{len(devices)} devices"
    if how == "loaded in":
        how += f" {1e3 * longest_s:.0f} ms" if longest_s < 1 else f" {format_duration(longest_s)}"
    return f"{who}: {hosts}" + (f" ({how})" if how else "")


def _short_names(devices: Iterable[str], fleet: Iterable[str]) -> list[str]:
    """``["host a", "b/cpu1", "cpu0"]``: hosts with several devices if all of them are meant, and single devices."""
    of_hosts, names = by_host(fleet), list[str]()
    for host, chosen in by_host(devices).items():
        is_whole = bool(host) and 1 < len(of_hosts.get(host, ())) <= len(chosen)
        names += [f"host {host}"] if is_whole else chosen
    return names


def gain_text(before: Plan, after: Plan) -> str:
    """``"accuracy 96.57 % → 97.01 % at 650 → 700 qps"``: the expected accuracy of each plan at its own demand."""
    expected = (plan.effective_accuracy for plan in (before, after))
    accuracies = ("none" if each is None else f"{each * 100:.2f} %" for each in expected)
    demands = dict.fromkeys(f"{sum(plan.demand_qps.values()):.0f}" for plan in (before, after))
    return f"accuracy {' → '.join(accuracies)} at {' → '.join(demands)} qps"
