"""The difference between two plans: its values, and how they look in a terminal."""

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.table import Table

from proteus_cli.cli.plan_tables import HostColumn, estimate_note, named
from proteus_cli.domain.base import Value
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.stages.cascade import PlannedCascade
from proteus_cli.reporting.tables import described, folded_name, number, table
from proteus_cli.units import UNKNOWN, counted, format_percent, format_qps, mark_estimate


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
    plans = before, after
    type_of = {each: kind for plan in plans for kind, devices in plan.fleet.items() for each in devices}
    old, new = before.by_device(), after.by_device()
    devices = tuple(_device(device, type_of[device], old.get(device), new.get(device)) for device in new | old)
    families = (
        FamilyChange(
            family,
            BeforeAfter(*(plan.demand_qps.get(family) for plan in plans)),
            BeforeAfter(*(plan.served_qps.get(family) for plan in plans)),
            BeforeAfter(*(plan.capacity_qps(family) for plan in plans)),
            BeforeAfter(*(plan.expected_attainment.get(family) for plan in plans)),
        )
        for family in dict.fromkeys((*after.demand_qps, *before.demand_qps))
    )
    return PlanDifference(
        swaps=sum(len(each.loads) for each in devices),
        effective_accuracy=BeforeAfter(before.effective_accuracy, after.effective_accuracy),
        relative_accuracy=BeforeAfter(before.relative_accuracy, after.relative_accuracy),
        families=tuple(families),
        devices=devices,
        cascades=tuple(each for each in _cascades(before, after) if not each.is_same),
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


def difference_tables(found: PlanDifference) -> RenderableType:
    """Families, devices, and cascades that change. Devices that change alike share a row."""
    changed_cascades: list[RenderableType] = ["", _changed_cascades(found)] if found.cascades else []
    return Group(_changed_families(found), "", _changed_devices(found), *changed_cascades)


def _changed_families(found: PlanDifference) -> RenderableType:
    expected = [family.expected_attainment for family in found.families]
    has_expected = any(pair.before != pair.after for pair in expected)
    rows = table(
        folded_name("family"), *map(number, ("demand", "served", "capacity", *(["expected"] if has_expected else [])))
    )
    for family, pair in zip(found.families, expected, strict=True):
        rates = (family.demand_qps, family.served_qps, family.capacity_qps)
        shares = [changed(pair, lambda share: f"{100 * share:.2f} %")] if has_expected else []
        rows.add_row(family.family, *(changed(rate, format_qps) for rate in rates), *shares)
    notes = ["expected: attainment, if queries arrive as when the plan was made"] if has_expected else []
    return described(rows, "demand, served, capacity: queries per second", *notes)


def _changed_devices(found: PlanDifference) -> RenderableType:
    where = HostColumn(each.device for each in found.devices)
    has_deferred = any(c.deferred_qps.before or c.deferred_qps.after for each in found.devices for c in _changes(each))
    numbers = map(number, ("share", "qps", "batch", *(["deferred"] if has_deferred else [])))
    rows = table(*map(folded_name, ("device", "", "variant")), *numbers, *where.columns("host"))
    groups: dict[object, list[DeviceChange]] = {}
    for each in found.devices:
        does = tuple((c.variant, c.family, c.share, c.max_batch, c.deferred_qps) for c in _changes(each))
        groups.setdefault((each.type, each.is_new, each.is_gone, each.is_same, does), []).append(each)
    for alike in groups.values():
        _add_device(rows, alike, where.cells([each.device for each in alike]), has_deferred=has_deferred)
    return described(
        rows,
        "= stays · + is loaded · − is unloaded",
        "share: part of the family's queries · batch: the largest",
        *(["deferred: what others defer to it, in queries per second, beside its qps"] if has_deferred else []),
    )


def _changes(device: DeviceChange) -> Sequence[VariantChange]:
    return (*device.stays, *device.loads, *device.unloads)


def _changed_cascades(found: PlanDifference) -> Table:
    rows = table(*map(folded_name, ("family", "", "cascade")), *map(number, ("threshold", "qps", "deferred")))
    for each in found.cascades:
        mark = "+" if each.rate_qps.before is None else "−" if each.rate_qps.after is None else "="
        rates = changed(each.rate_qps, format_qps), changed(each.deferred_qps, format_qps)
        threshold = changed(each.threshold, lambda value: f"{value:.4g}")
        rows.add_row(each.family, mark, f"{each.first} → {each.second}", threshold, *rates)
    return rows


def _add_device(rows: Table, alike: Sequence[DeviceChange], hosts: Sequence[str], *, has_deferred: bool) -> None:
    first = alike[0]
    who = named(first.type, [each.device for each in alike])
    who += " (new)" if first.is_new else " (gone)" if first.is_gone else ""
    marked: list[tuple[str, VariantChange]] = [
        *(("=", change) for change in first.stays),
        *(("+", change) for change in first.loads),
        *(("−", change) for change in first.unloads),
    ]
    for mark, change in marked:
        rows.add_row(
            who,
            mark,
            change.variant,
            changed(change.share, format_percent),
            changed(change.rate_qps, format_qps),
            changed(change.max_batch, lambda rows: f"{rows:g}"),
            *([changed(change.deferred_qps, format_qps)] if has_deferred else []),
            *hosts,
        )
        who, hosts = "", ()
    if not marked:
        rows.add_row(who, "", "idle", *[UNKNOWN] * (3 + has_deferred), *hosts)


def difference_lines(found: PlanDifference, estimated: Sequence[Sequence[str]]) -> Iterator[str]:
    """Costs and gains of the change; ``estimated`` are the families with estimated accuracies, before and after."""
    marked = bool(estimated[0]), bool(estimated[1])
    accuracy = changed(found.effective_accuracy, lambda value: f"{value:.4f}", estimated=marked)
    relative = changed(found.relative_accuracy, format_percent, estimated=marked)
    yield f"{counted(found.swaps, 'load')}; effective accuracy {accuracy}, of the best {relative}"
    if families := dict.fromkeys(family for each in estimated for family in each):
        yield estimate_note(families)


def changed(pair: BeforeAfter, shown: Callable[[float], str], *, estimated: tuple[bool, bool] = (False, False)) -> str:
    """``"0.91 → 0.93"``, or one of them if they read the same. ``estimated``: which of them are marked as estimates."""
    before, after = (
        mark_estimate(shown(value), estimated=mark) if value is not None else UNKNOWN
        for value, mark in zip((pair.before, pair.after), estimated, strict=True)
    )
    return after if before == after else f"{before} → {after}"
