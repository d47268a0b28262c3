"""The difference between two plans.

What a change of plan does to the devices, in words.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from proteus_cli.domain.base import Value
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import short_names
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.stages.cascade import PlannedCascade
from proteus_cli.units import counted, format_duration


class BeforeAfter(Value, frozen=True):
    """A number before and after; None where it isn't known."""

    before: float | None
    after: float | None


class VariantChange(Value, frozen=True):
    """A variant on a device: its share of the family's queries and its batches, 0 where it isn't hosted.

    ``deferred_qps``: what cascades defer to it, beside its ``rate_qps``.
    """

    family: str
    variant: str
    share: BeforeAfter
    rate_qps: BeforeAfter
    max_batch: BeforeAfter
    deferred_qps: BeforeAfter


class DeviceChange(Value, frozen=True):
    """The variants that stay on a device, are loaded and are unloaded.

    ``type``: by the later plan, or by the earlier one where the device is gone. ``is_new`` and ``is_gone``: the device
    is in one of the fleets only.
    """

    device: str
    type: str
    stays: tuple[VariantChange, ...]
    loads: tuple[VariantChange, ...]
    unloads: tuple[VariantChange, ...]
    is_new: bool = False
    is_gone: bool = False

    @property
    def is_same(self) -> bool:
        """Whether nothing changes on the device, shares included."""
        rates = [rate for each in self.stays for rate in (each.rate_qps, each.deferred_qps)]
        moved = any(rate.before != rate.after for rate in rates)
        return not (self.loads or self.unloads or moved or self.is_new or self.is_gone)


class FamilyChange(Value, frozen=True):
    """Queries per second of a family; ``capacity_qps`` is the most that its hosts can take.

    ``expected_attainment`` is the share of its queries that each plan expects in time; None where it expects nothing.
    """

    family: str
    demand_qps: BeforeAfter
    served_qps: BeforeAfter
    capacity_qps: BeforeAfter
    expected_attainment: BeforeAfter


class CascadeChange(Value, frozen=True):
    """A cascade at one threshold: all are None in the plan that doesn't use it.

    ``rate_qps`` of the first variant's queries go this way, of which the second gets ``deferred_qps``.
    """

    family: str
    first: str
    second: str
    threshold: BeforeAfter
    rate_qps: BeforeAfter
    deferred_qps: BeforeAfter

    @property
    def is_same(self) -> bool:
        """Whether nothing changes of it."""
        pairs = (self.threshold, self.rate_qps, self.deferred_qps)
        return all(pair.before == pair.after for pair in pairs)


class PlanDifference(Value, frozen=True):
    """All changes from one plan to another; ``swaps``: how many variants are loaded.

    ``cascades`` are those that begin, end, or change their threshold or a rate.
    """

    swaps: int
    effective_accuracy: BeforeAfter
    relative_accuracy: BeforeAfter
    families: tuple[FamilyChange, ...]
    devices: tuple[DeviceChange, ...]
    cascades: tuple[CascadeChange, ...]


def difference(before: Plan, after: Plan) -> PlanDifference:
    """Device by device and family by family, in the order of ``after``, what is only in ``before`` last."""
    families = dict.fromkeys((*after.demand_qps, *before.demand_qps))
    type_of = {each: kind for plan in (before, after) for kind, devices in plan.fleet.items() for each in devices}
    old, new = before.by_device(), after.by_device()
    return PlanDifference(
        swaps=after.swaps_from(before),
        effective_accuracy=BeforeAfter(before.effective_accuracy, after.effective_accuracy),
        relative_accuracy=BeforeAfter(before.relative_accuracy, after.relative_accuracy),
        families=tuple(_family(family, before, after) for family in families),
        devices=tuple(_device(device, type_of[device], old.get(device), new.get(device)) for device in new | old),
        cascades=tuple(each for each in _cascades(before, after) if not each.is_same),
    )


def _family(family: str, before: Plan, after: Plan) -> FamilyChange:
    return FamilyChange(
        family,
        BeforeAfter(before.demand_qps.get(family), after.demand_qps.get(family)),
        BeforeAfter(before.served_qps.get(family), after.served_qps.get(family)),
        BeforeAfter(before.capacity_qps(family), after.capacity_qps(family)),
        BeforeAfter(before.expected_attainment_of(family), after.expected_attainment_of(family)),
    )


_Pair = tuple[str, str, str]  # family, first and second variant


def _cascades(before: Plan, after: Plan) -> list[CascadeChange]:
    old, new = _by_pair(before), _by_pair(after)
    changes = []
    for pair in new | old:
        was, now = old.get(pair, {}), new.get(pair, {})
        changes += [_cascade(pair, was[threshold], now[threshold]) for threshold in now if threshold in was]
        ended = [each for threshold, each in was.items() if threshold not in now]
        begun = [each for threshold, each in now.items() if threshold not in was]
        changes += [_cascade(pair, *both) for both in zip_longest(ended, begun)]
    return changes


def _by_pair(plan: Plan) -> dict[_Pair, dict[float, PlannedCascade]]:
    """By pair of variants, and by threshold: a plan may use a pair at several."""
    found: dict[_Pair, dict[float, PlannedCascade]] = {}
    for each in plan.cascades:
        found.setdefault((each.family, each.first, each.second), {})[each.point.threshold] = each
    return found


def _cascade(pair: _Pair, old: PlannedCascade | None, new: PlannedCascade | None) -> CascadeChange:
    return CascadeChange(
        *pair,
        threshold=BeforeAfter(old.point.threshold if old else None, new.point.threshold if new else None),
        rate_qps=BeforeAfter(old.rate_qps if old else None, new.rate_qps if new else None),
        deferred_qps=BeforeAfter(old.deferred_qps if old else None, new.deferred_qps if new else None),
    )


def _device(device: str, kind: str, before: list[Placement] | None, after: list[Placement] | None) -> DeviceChange:
    """``before`` and ``after``: its placements, or None where the device is not in that fleet."""
    old, new = {p.key: p for p in before or ()}, {p.key: p for p in after or ()}
    changes = {
        key: _variant(*key, old.get(key), new.get(key)) for key in (*new, *(key for key in old if key not in new))
    }
    return DeviceChange(
        device,
        kind,
        stays=tuple(changes[key] for key in new if key in old),
        loads=tuple(changes[key] for key in new if key not in old),
        unloads=tuple(changes[key] for key in old if key not in new),
        is_new=before is None,
        is_gone=after is None,
    )


def _variant(family: str, variant: str, old: Placement | None, new: Placement | None) -> VariantChange:
    return VariantChange(
        family,
        variant,
        share=BeforeAfter(old.share if old else 0.0, new.share if new else 0.0),
        rate_qps=BeforeAfter(old.rate_qps if old else 0.0, new.rate_qps if new else 0.0),
        max_batch=BeforeAfter(old.max_batch if old else 0, new.max_batch if new else 0),
        deferred_qps=BeforeAfter(old.deferred_qps if old else 0.0, new.deferred_qps if new else 0.0),
    )


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
