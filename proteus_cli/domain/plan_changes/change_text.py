"""What a change of plan does to the devices, in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.cluster.host_text import short_names
from proteus_cli.domain.plan.plan import Placement, Plan
from proteus_cli.units import counted, format_duration

MAX_PARTS = 4
"""Devices that change alike share a part of the text; further ones are only counted."""

_MAX_NAMED = 3


def hosting_text(
    before: Plan, after: Plan, load_s: Mapping[tuple[str, VariantKey], float], labels: Mapping[VariantKey, str]
) -> str:
    """``"cpu1: faces-large → faces-small (loaded in 80 ms)"``: the devices that host other variants than ``before``.

    ``load_s``: seconds of the loads that the change takes, by device and variant; other variants that come are warm.
    ``labels`` are the names of all variants (`variant_labels`). At most `MAX_PARTS` parts and a count.
    """
    old, new = before.by_device(), after.by_device()
    parts: dict[_Swap, list[tuple[str, float]]] = {}
    for device in new | old:
        swap = _swap(device, old.get(device, ()), new.get(device, ()), load_s, labels)
        if swap is not None:
            longest_s = max((load_s.get((device, each.key), 0.0) for each in new.get(device, ())), default=0.0)
            parts.setdefault(swap, []).append((device, longest_s))
    texts = [_part(swap, devices, new | old) for swap, devices in parts.items()]
    if len(texts) > MAX_PARTS:
        others = sum(len(devices) for devices in list(parts.values())[MAX_PARTS:])
        texts[MAX_PARTS:] = [counted(others, "more device")]
    return "; ".join(texts) or "the same variants"


def gain_text(before: Plan, after: Plan) -> str:
    """``"accuracy 96.57 % → 97.01 % at 650 → 700 qps"``: what each plan expects of the demand that it was made for."""
    expected = (plan.effective_accuracy for plan in (before, after))
    accuracies = ("none" if each is None else f"{each * 100:.2f} %" for each in expected)
    demands = dict.fromkeys(f"{sum(plan.demand_qps.values()):.0f}" for plan in (before, after))
    return f"accuracy {' → '.join(accuracies)} at {' → '.join(demands)} qps"


@dataclass(frozen=True, slots=True)
class _Swap:
    """Variants of a device before and after, and whether any that came was loaded, or any stood by."""

    before: tuple[str, ...]
    after: tuple[str, ...]
    was_loaded: bool
    was_warm: bool


def _swap(
    device: str,
    before: Sequence[Placement],
    after: Sequence[Placement],
    load_s: Mapping[tuple[str, VariantKey], float],
    labels: Mapping[VariantKey, str],
) -> _Swap | None:
    old = {each.key for each in before}
    if old == {each.key for each in after}:
        return None
    loaded = {(device, each.key) in load_s for each in after if each.key not in old}
    was, hosted = (tuple(labels[each.key] for each in placed) for placed in (before, after))
    return _Swap(was, hosted, True in loaded, False in loaded)


def _part(swap: _Swap, devices: Sequence[tuple[str, float]], fleet: Iterable[str]) -> str:
    changing, times_s = zip(*devices, strict=True)
    names = short_names(changing, fleet)
    who = ", ".join(names) if len(names) <= _MAX_NAMED else f"{len(changing)} devices"
    hosts = " → ".join(", ".join(variants) or "nothing" for variants in (swap.before, swap.after))
    if not swap.was_loaded:
        return f"{who}: {hosts}{' (was warm)' if swap.was_warm else ''}"
    longest_s = max(times_s)
    return f"{who}: {hosts} (loaded in {f'{1e3 * longest_s:.0f} ms' if longest_s < 1 else format_duration(longest_s)})"
