"""The difference between two plans, as values and in words."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest

from proteus_cli.domain.base import Value
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import short_names
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.stages.cascade import PlannedCascade
from proteus_cli.units import counted, format_duration


class BeforeAfter(Value, frozen=True):
    """A number before and after; None if it is unknown."""

    before: float | None
    after: float | None


class VariantChange(Value, frozen=True):
    """A variant on a device: its share of the family's queries, rates and largest batch; 0 if it isn't hosted.

    ``deferred_qps`` comes on top of ``rate_qps``: queries that cascades defer to it.
    """

    family: str
    variant: str
    share: BeforeAfter
    rate_qps: BeforeAfter
    max_batch: BeforeAfter
    deferred_qps: BeforeAfter


class DeviceChange(Value, frozen=True):
    """The variants that stay on a device, are loaded and are unloaded.

    ``type`` is that in the later plan, or in the earlier one if the device is gone. ``is_new`` and ``is_gone``: the
    device is in one of the fleets only.
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
    """Queries per second of a family; ``capacity_qps`` is the highest rate that its hosts can take.

    ``expected_attainment`` is the fraction of its queries that each plan expects in time; None without an expectation.
    """

    family: str
    demand_qps: BeforeAfter
    served_qps: BeforeAfter
    capacity_qps: BeforeAfter
    expected_attainment: BeforeAfter


class CascadeChange(Value, frozen=True):
    """A cascade at one threshold; its numbers are None in a plan that doesn't use it.

    ``rate_qps`` of the first variant's queries go this way. The second variant gets ``deferred_qps`` of them.
    """

    family: str
    first: str
    second: str
    threshold: BeforeAfter
    rate_qps: BeforeAfter
    deferred_qps: BeforeAfter

    @property
    def is_same(self) -> bool:
        """Whether the threshold and both rates are the same."""
        pairs = (self.threshold, self.rate_qps, self.deferred_qps)
        return all(pair.before == pair.after for pair in pairs)


class PlanDifference(Value, frozen=True):
    """All changes from one plan to another; ``swaps`` is the number of variants that are loaded.

    ``cascades`` lists cascades that begin, end, or change their threshold or a rate.
    """

    swaps: int
    effective_accuracy: BeforeAfter
    relative_accuracy: BeforeAfter
    families: tuple[FamilyChange, ...]
    devices: tuple[DeviceChange, ...]
    cascades: tuple[CascadeChange, ...]


def difference(before: Plan, after: Plan) -> PlanDifference:
    """Device by device and family by family, in the order of ``after``. Entries of ``before`` alone come last."""
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
    def both(read: Callable[[Plan], float | None]) -> BeforeAfter:
        return BeforeAfter(read(before), read(after))

    return FamilyChange(
        family,
        both(lambda plan: plan.demand_qps.get(family)),
        both(lambda plan: plan.served_qps.get(family)),
        both(lambda plan: plan.capacity_qps(family)),
        both(lambda plan: plan.expected_attainment_of(family)),
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
    """By pair of variants, and by threshold. A plan may use a pair at several thresholds."""
    found: dict[_Pair, dict[float, PlannedCascade]] = {}
    for each in plan.cascades:
        found.setdefault((each.family, each.first, each.second), {})[each.point.threshold] = each
    return found


def _cascade(pair: _Pair, old: PlannedCascade | None, new: PlannedCascade | None) -> CascadeChange:
    return CascadeChange(*pair, *(_both(old, new, what, None) for what in ("threshold", "rate_qps", "deferred_qps")))


def _both(old: object, new: object, what: str, otherwise: float | None) -> BeforeAfter:
    return BeforeAfter(getattr(old, what, otherwise), getattr(new, what, otherwise))


def _device(device: str, kind: str, before: list[Placement] | None, after: list[Placement] | None) -> DeviceChange:
    """``before`` and ``after``: its placements, or None if the device is not in that fleet."""
    old, new = {p.key: p for p in before or ()}, {p.key: p for p in after or ()}
    amounts = "share", "rate_qps", "max_batch", "deferred_qps"
    changes = {
        key: VariantChange(*key, *(_both(old.get(key), new.get(key), each, 0.0) for each in amounts))
        for key in new | old
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
    names, longest_s = short_names([device for device, _ in devices], fleet), max(load_s for _, load_s in devices)
    who = ", ".join(names) if len(names) <= _MAX_NAMED else f"{len(devices)} devices"
    if how == "loaded in":
        how += f" {1e3 * longest_s:.0f} ms" if longest_s < 1 else f" {format_duration(longest_s)}"
    return f"{who}: {hosts}" + (f" ({how})" if how else "")


def gain_text(before: Plan, after: Plan) -> str:
    """``"accuracy 96.57 % → 97.01 % at 650 → 700 qps"``: the expected accuracy of each plan at its own demand."""
    expected = (plan.effective_accuracy for plan in (before, after))
    accuracies = ("none" if each is None else f"{each * 100:.2f} %" for each in expected)
    demands = dict.fromkeys(f"{sum(plan.demand_qps.values()):.0f}" for plan in (before, after))
    return f"accuracy {' → '.join(accuracies)} at {' → '.join(demands)} qps"
