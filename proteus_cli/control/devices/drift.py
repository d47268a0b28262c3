"""Drift: lasting differences between the times of served batches and the profile.

`slowdown` sees a difference within a few batches, for a device as a whole, and forgets it as fast. Drift takes a
minute, distinguishes variants and batch sizes, and its estimates replace the profile.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Point, Profile, Recorded, RecordedPoint, VariantProfile

NOTABLE = 0.2  # of the profiled time; a smaller difference is no drift
NOTABLE_S = 0.0003  # nor is a shorter one, which may be the way to the device and back
BOUNDS = (0.5, 4.0)  # of the measured profile, for all corrections together
MIN_BATCHES = 20  # that an estimate rests on
MIN_CHANGE = 0.05  # a smaller correction is not made
WINDOWS = 6  # in which a difference must show, one after another

PlacementKey = tuple[str, str, str]
"""Device, family, variant."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Measured over profiled time of a batch size, the mean over ``batches``; 0 batches: extrapolated from others."""

    batch: int
    ratio: float
    batches: int


@dataclass(frozen=True, slots=True)
class Correction:
    """New estimates of the batch sizes of a variant on a device whose times have drifted."""

    device: str
    family: str
    variant: str
    estimates: tuple[Estimate, ...]

    @property
    def ratio(self) -> float:
        """The mean over all batches."""
        seen = [each for each in self.estimates if each.batches]
        return sum(each.ratio * each.batches for each in seen) / sum(each.batches for each in seen)


@dataclass(slots=True)
class _Cell:
    """Ratios of measured to profiled times of one batch size.

    ``sum`` and ``batches`` are of the running window, ``last_*`` of the window before, ``off_*`` of all windows since
    the size is off in one direction.
    """

    sum: float = 0.0
    batches: int = 0
    last_sum: float = 0.0
    last_batches: int = 0
    is_off: bool = False
    is_slow: bool = False
    off_since_s: float = 0.0
    off_sum: float = 0.0
    off_batches: int = 0
    is_seen: bool = False

    def roll(self, start_s: float, mean_s: float) -> None:
        """End the window that began at ``start_s``; a window without batches changes nothing."""
        if not self.batches:
            return
        ratio = self.sum / self.batches
        is_off = abs(ratio - 1) > NOTABLE and abs(ratio - 1) * mean_s > NOTABLE_S
        if is_off and not (self.is_off and self.is_slow == (ratio > 1)):
            self.off_since_s, self.off_sum, self.off_batches = start_s, 0.0, 0
        self.is_off, self.is_slow, self.is_seen = is_off, ratio > 1, True
        self.off_sum += self.sum
        self.off_batches += self.batches
        self.last_sum, self.last_batches = self.sum, self.batches
        self.sum, self.batches = 0.0, 0


@dataclass(slots=True)
class _Watched:
    """One variant on one device; ``scale`` has the product of all corrections of each point."""

    points: tuple[Point, ...]
    scale: list[float]
    mean_s: LatencyTable
    cell_of: list[int]  # by rows: the next profiled batch size, to which a runner pads
    cells: list[_Cell] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cells = [_Cell() for _ in self.points]


class Drift:
    """Learns from each batch, in O(1), and finds profiles that are wrong.

    A batch size has drifted if its mean was off by `NOTABLE`, in one direction, in each of the `WINDOWS` that
    ``after_s`` is divided into. Its estimate is the mean over that time, within `BOUNDS` of the measured profile.
    Sizes of the same variant that did not run are scaled with those that did.
    """

    def __init__(self, profiles: Mapping[str, Profile], *, after_s: float = 60.0) -> None:
        self.after_s = after_s
        self._window_s = after_s / WINDOWS
        self._window_start_s: float | None = None
        self._profiles = profiles
        self._watched: dict[PlacementKey, _Watched] = {}

    def ran(self, device: str, family: str, variant: str, *, rows: int, took_s: float) -> None:
        """Learn from one batch; nothing from one of a variant that is gone since the batch began."""
        key = (device, family, variant)
        watched = self._watched.get(key)
        if watched is None:
            if self._profiles[device].of(family, variant) is None:
                return
            watched = self._watched[key] = _watch(self._profiles[device], family, variant)
        cell = watched.cells[watched.cell_of[rows] if rows < len(watched.cell_of) else -1]
        cell.sum += took_s / watched.mean_s(rows)
        cell.batches += 1

    def due(self, now_s: float) -> tuple[Correction, ...]:
        """What has drifted by the end of a window, once: the caller corrects it. The first call begins a window."""
        if self._window_start_s is None:
            self._window_start_s = now_s
        if now_s - self._window_start_s < self._window_s:
            return ()
        start_s, self._window_start_s = self._window_start_s, now_s
        self._forget_replaced()
        found = []
        for key, watched in self._watched.items():
            for cell, point in zip(watched.cells, watched.points, strict=True):
                cell.roll(start_s, point.mean_s)
            if estimates := self._estimates(watched, now_s):
                found.append(Correction(*key, estimates))
        return tuple(found)

    def _forget_replaced(self) -> None:
        """Forget variants that are gone, or were measured anew: what was seen of them says nothing of the profile."""
        for key, watched in list(self._watched.items()):
            device, *variant = key
            measured = self._profiles[device].of(*variant)
            if measured is None or measured.points != watched.points:
                del self._watched[key]

    def ratios(self) -> dict[PlacementKey, float]:
        """The mean ratio of measured to profiled time in the last two windows, of each placement that ran."""
        found = {}
        for key, watched in self._watched.items():
            batches = sum(cell.batches + cell.last_batches for cell in watched.cells)
            if batches:
                found[key] = sum(cell.sum + cell.last_sum for cell in watched.cells) / batches
        return found

    def off(self) -> dict[PlacementKey, list[Estimate]]:
        """Measured over profiled time of the batch sizes that are off now."""
        return {
            key: [
                Estimate(point.batch, cell.off_sum / cell.off_batches, cell.off_batches)
                for point, cell in zip(watched.points, watched.cells, strict=True)
                if cell.is_off and cell.off_batches
            ]
            for key, watched in self._watched.items()
        }

    def _estimates(self, watched: _Watched, now_s: float) -> tuple[Estimate, ...]:
        low, high = BOUNDS
        found: dict[int, Estimate] = {}
        for place, cell in enumerate(watched.cells):
            if not cell.is_off or now_s - cell.off_since_s < self.after_s or cell.off_batches < MIN_BATCHES:
                continue
            scale = min(max(watched.scale[place] * cell.off_sum / cell.off_batches, low), high)
            ratio = scale / watched.scale[place]
            if abs(ratio - 1) >= MIN_CHANGE:  # at a bound there is nothing more to correct
                found[place] = Estimate(watched.points[place].batch, ratio, cell.off_batches)
        if not found:
            return ()
        seen = sum(each.batches for each in found.values())
        usual = sum(each.ratio * each.batches for each in found.values()) / seen
        for place, cell in enumerate(watched.cells):
            if place not in found and not cell.is_seen:
                scale = min(max(watched.scale[place] * usual, low), high)
                found[place] = Estimate(watched.points[place].batch, scale / watched.scale[place], 0)
        return tuple(found[place] for place in sorted(found))

    def corrected(self, correction: Correction, profile: Profile) -> None:
        """A correction is in force, and later batches are compared with the new ``profile``."""
        key = (correction.device, correction.family, correction.variant)
        before = self._watched[key]
        changed = {each.batch: each.ratio for each in correction.estimates}
        after = _watch(profile, correction.family, correction.variant)
        after.scale = [
            scale * changed.get(point.batch, 1.0) for scale, point in zip(before.scale, before.points, strict=True)
        ]
        self._watched[key] = after


def _watch(profile: Profile, family: str, variant: str) -> _Watched:
    measured = profile.of(family, variant)
    points = measured.points if measured is not None else ()
    batches = [point.batch for point in points]
    return _Watched(
        points,
        [1.0] * len(points),
        LatencyTable(points, of=lambda point: point.mean_s),
        [bisect_left(batches, rows) for rows in range(batches[-1] + 1)],
    )


def corrected_profile(profile: Profile, corrections: Sequence[Correction], recorded: Recorded) -> Profile:
    """The profile with corrections of variants on its device, each marked as ``recorded``.

    All latencies of a point are scaled alike, as only their mean is known; ``runs`` is the number of served batches.
    """
    by_key = {(each.family, each.variant): each for each in corrections}
    variants = tuple(
        _corrected_variant(measured, by_key[measured.family, measured.variant], recorded)
        if (measured.family, measured.variant) in by_key
        else measured
        for measured in profile.variants
    )
    return msgspec.structs.replace(profile, variants=variants, measured_on=profile.device.id)


def _corrected_variant(measured: VariantProfile, correction: Correction, recorded: Recorded) -> VariantProfile:
    estimates = {each.batch: each for each in correction.estimates}
    before = measured.recorded.points if isinstance(measured.recorded, Recorded) else ()
    scaled = {each.batch: each for each in before}
    for each in correction.estimates:
        known = scaled.get(each.batch)
        scaled[each.batch] = RecordedPoint(each.batch, each.ratio * (known.factor if known else 1.0), each.batches)
    return msgspec.structs.replace(
        measured,
        points=tuple(_corrected_point(point, estimates.get(point.batch)) for point in measured.points),
        recorded=msgspec.structs.replace(recorded, points=tuple(scaled[batch] for batch in sorted(scaled))),
    )


def _corrected_point(point: Point, estimate: Estimate | None) -> Point:
    if estimate is None:
        return point
    ratio = estimate.ratio
    return Point(
        batch=point.batch,
        runs=estimate.batches or point.runs,
        mean_s=point.mean_s * ratio,
        p50_s=point.p50_s * ratio,
        p90_s=point.p90_s * ratio,
        p95_s=point.p95_s * ratio,
        p99_s=point.p99_s * ratio,
        qps=point.qps / ratio,
    )


def rerated(plan: Plan, corrections: Sequence[Correction]) -> Plan:
    """The same plan with corrected capacities."""
    ratios = {
        (each.device, each.family, each.variant, estimate.batch): estimate.ratio
        for each in corrections
        for estimate in each.estimates
    }
    placements = tuple(
        msgspec.structs.replace(p, capacity_qps=p.capacity_qps / ratios[p.device, p.family, p.variant, p.max_batch])
        if (p.device, p.family, p.variant, p.max_batch) in ratios
        else p
        for p in plan.placements
    )
    return msgspec.structs.replace(plan, placements=placements)
