"""How much slower devices run than their profiles say: the ratio of measured to profiled time.

Theory of operation
===================

Each batch that ends gives one ratio. Each kind of decision has a mean of its own.

* `Slowness`, by device, over some ten batches: deadlines, admission, capacity and re-planning count with it. It follows
  other programs on the same cores, and forgets them as fast.
* `StageSlowness`, by device, over some four batches: multi-exit models. Deadlines that only a first exit can keep go by
  the time of stages, as whole batches take less where rows are cut short.
* `Drift`, by device, variant and batch size, over a minute: a difference that lasts corrects the profile. After a
  correction `Slowness.rebase` removes it from the first mean, so that it does not count twice.

Each mean forgets exponentially, by batches or by their profiled time. `LIMITS` has all constants of this module.

Example: batches of 10 ms take 20 ms from now on. The factor of `Slowness` is 1.64 after 30 batches (0.3 s of profiled
time). After a minute `Drift.due` returns a `Correction` of ratio 2. From then on the profile says 20 ms, and the factor
is 1 again.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Point, Profile, Recorded, RecordedPoint, VariantProfile
from proteus_cli.domain.stages.pace import StagePace


@dataclass(frozen=True, slots=True)
class Limits:
    """All constants of this module."""

    learned_s: float = 0.3  # s of profiled time, after which earlier batches count for 1/e: ten batches of 30 ms
    min_weight: float = 0.005  # of one batch: the least, so that short batches show a change within some 200
    max_weight: float = 0.1  # of one batch: a single hiccup moves the mean by a tenth of it
    meaningful_s: float = 0.001  # s; a shorter slow batch tells about threads, unless it follows another at once
    recent_s: float = 5.0  # s, after which earlier slowness counts for 1/e in a re-plan: a slow second is no reason
    fresh: int = 8  # requests given up in a row before a slowness is doubted: batches between them show how it is
    notable: float = 0.2  # of the profiled time; a smaller difference is no drift (chosen)
    notable_s: float = 0.0003  # s; a shorter difference may be the way to the device and back
    corrections: tuple[float, float] = (0.5, 4.0)  # bounds of all corrections of a point together (chosen)
    min_batches: int = 20  # of an estimate: where they scatter by 0.5, its standard deviation is 0.11
    min_change: float = 0.05  # a smaller correction is not made (chosen)
    windows: int = 6  # in a row that a difference must show in: of 1 in 30 by chance, six in a row are 1 in 10⁹


LIMITS = Limits()


class Slowness:
    """The slowness of a device. Another program on the same cores makes it slow.

    ``factor``: the mean ratio, at least 1. Rates are divided by it, and the profile's percentiles multiplied. Batches
    are weighted by their profiled time, since capacity is a matter of time: short batches, which caches and threads
    slow down most, are many and take little of it.
    """

    def __init__(self) -> None:
        self._ratio = self.factor = 1.0
        self._before_load: float | None = None

    def record_run(self, *, took_s: float, mean_s: float, is_busy: bool = False) -> bool:
        """Learn from one batch, by its profiled time; it followed another at once if the device ``is_busy``.

        True where ``factor`` changed.
        """
        ratio = took_s / mean_s
        if ratio == self._ratio or (ratio > self._ratio and mean_s < LIMITS.meaningful_s and not is_busy):
            return False
        weight = min(max(mean_s / LIMITS.learned_s, LIMITS.min_weight), LIMITS.max_weight)
        before = self.factor
        self._use(self._ratio + weight * (ratio - self._ratio))
        return before != self.factor

    def rebase(self, ratio: float) -> None:
        """The profile has changed to ``ratio`` times its latencies."""
        self._use(self._ratio / ratio)
        if self._before_load is not None:
            self._before_load /= ratio

    def load_began(self) -> None:
        """An engine is being loaded beside the batches, which take longer meanwhile."""
        self._before_load = self._before_load or self._ratio

    def load_ended(self) -> None:
        """No load slows batches any more: expect no more than before it."""
        if self._before_load is not None:
            self._use(min(self._ratio, self._before_load))
            self._before_load = None

    def decay(self) -> None:
        """Expect less: the device seems too slow for each request, so no batch runs that could show otherwise."""
        self._use(self._ratio - LIMITS.max_weight * max(self._ratio - 1.0, 0.0))

    def _use(self, ratio: float) -> None:
        self._ratio, self.factor = ratio, max(1.0, ratio)


class StageSlowness:
    """The slowness of multi-exit models on a device: what stages take now, at most.

    ``factor`` is relative to the percentile of the family's attainment in the profile. It goes by the pace of the
    batches that ran (`StagePace`), by the stages of the rows that got there. It may be below 1, as a profile expects
    too much where others had the core while it was measured. Until enough batches ran it is at least 1.
    """

    def __init__(self) -> None:
        self._pace = StagePace()
        self._tail = self.factor = 1.0
        self._before_load: tuple[float, float] | None = None

    @property
    def least(self) -> float:
        """The lowest factor that `decay` leads to: the fastest stage that was ever seen."""
        return self._pace.fastest / self._tail

    def record_run(self, *, took_s: float, mean_s: float, tail: float) -> None:
        """Learn from one batch, by the mean of its stages; the percentile is ``tail`` times the mean of the first."""
        self._tail = tail
        self._pace.ran(took_s, mean_s)
        self._settle()

    def load_began(self) -> None:
        """As `Slowness.load_began`."""
        self._before_load = self._before_load or self._pace.learned

    def load_ended(self) -> None:
        """As `Slowness.load_ended`."""
        if self._before_load is not None:
            self._pace.forget_beyond(self._before_load)
            self._before_load = None
            self._settle()

    def decay(self) -> None:
        """As `Slowness.decay`."""
        self._pace.doubt()
        self._settle()

    def _settle(self) -> None:
        factor = self._pace.factor / self._tail
        self.factor = factor if self._pace.is_known else max(1.0, factor)


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
        return mean_ratio(self.estimates)


def mean_ratio(estimates: Sequence[Estimate]) -> float:
    """The mean over all batches that were measured; raises `ZeroDivisionError` where none was."""
    return sum(each.ratio * each.batches for each in estimates) / sum(each.batches for each in estimates)


@dataclass(slots=True)
class _Cell:
    """Ratios of one batch size: ``sum`` and ``batches`` of the running window, ``last_*`` of the one before.

    ``off_*`` are of the last ``off_windows``, in which the size was off in one ``direction``: 1 is slower.
    """

    sum: float = 0.0
    batches: int = 0
    last_sum: float = 0.0
    last_batches: int = 0
    direction: int = 0
    off_windows: int = 0
    off_sum: float = 0.0
    off_batches: int = 0

    def roll(self, mean_s: float) -> None:
        """End a window. One without batches passes for a size that is off: plans leave what has become slow."""
        if not self.batches:
            self.off_windows += bool(self.direction)
            return
        difference = self.sum / self.batches - 1
        is_off = abs(difference) > LIMITS.notable and abs(difference) * mean_s > LIMITS.notable_s
        direction = (1 if difference > 0 else -1) if is_off else 0
        if direction != self.direction:
            self.direction, self.off_windows, self.off_sum, self.off_batches = direction, 0, 0.0, 0
        self.off_windows += 1
        self.off_sum += self.sum
        self.off_batches += self.batches
        self.last_sum, self.last_batches, self.sum, self.batches = self.sum, self.batches, 0.0, 0

    @property
    def has_drifted(self) -> bool:
        return bool(self.direction) and self.off_windows >= LIMITS.windows and self.off_batches >= LIMITS.min_batches


class _Watched:
    """One variant on one device; ``scale`` has the product of all corrections of each point."""

    def __init__(self, measured: VariantProfile) -> None:
        self.points, self.mean_s = measured.points, LatencyTable(measured.points, of=lambda point: point.mean_s)
        self.cells = [_Cell() for _ in self.points]
        corrected = measured.recorded.points if isinstance(measured.recorded, Recorded) else ()
        factors = {each.batch: each.factor for each in corrected}
        self.batches = [point.batch for point in self.points]
        self.scale = [factors.get(batch, 1.0) for batch in self.batches]

    def cell_of(self, rows: int) -> _Cell:
        """The cell of the next profiled batch size, to which a runner pads."""
        return self.cells[min(bisect_left(self.batches, rows), len(self.cells) - 1)]


class Drift:
    """Learns from each batch, in O(1), and finds profiles that are wrong.

    A batch size has drifted if its mean was off by `Limits.notable`, in one direction, in `Limits.windows` in a row,
    into which ``after_s`` is divided. Its estimate is the mean over that time, within `Limits.corrections`. Sizes of
    the same variant that did not run are scaled by the mean of the others.
    """

    def __init__(self, profiles: Mapping[str, Profile], *, after_s: float = 60.0) -> None:
        self.after_s = after_s
        self._window_start_s: float | None = None
        self._profiles = profiles
        self._watched: dict[PlacementKey, _Watched] = {}

    def record_run(self, device: str, family: str, variant: str, *, rows: int, took_s: float) -> None:
        """Learn from one batch. A variant that is gone since the batch began is ignored."""
        watched = self._watched.get((device, family, variant))
        if watched is None:
            measured = self._profiles[device].of(family, variant)
            if measured is None:
                return
            watched = self._watched[device, family, variant] = _Watched(measured)
        cell = watched.cell_of(rows)
        cell.sum += took_s / watched.mean_s(rows)
        cell.batches += 1

    def due(self, now_s: float) -> tuple[Correction, ...]:
        """The corrections due by the end of a window, once. The first call begins a window.

        The caller corrects the profiles before the next batch ends, and later batches are compared with these.
        """
        if self._window_start_s is None:
            self._window_start_s = now_s
        if now_s - self._window_start_s < self.after_s / LIMITS.windows:
            return ()
        self._window_start_s, found = now_s, list[Correction]()
        for key, watched in list(self._watched.items()):
            device, family, variant = key
            measured = self._profiles[device].of(family, variant)
            if measured is not None and measured.points == watched.points:
                for cell, point in zip(watched.cells, watched.points, strict=True):
                    cell.roll(point.mean_s)
                if not (estimates := _estimates(watched)):
                    continue
                found.append(Correction(*key, estimates))
            del self._watched[key]
        return tuple(found)

    def ratios(self) -> dict[PlacementKey, float]:
        """The mean ratio of the last two windows, of each placement that ran."""
        found = {}
        for key, watched in self._watched.items():
            batches = sum(cell.batches + cell.last_batches for cell in watched.cells)
            if batches:
                found[key] = sum(cell.sum + cell.last_sum for cell in watched.cells) / batches
        return found

    def off(self) -> dict[PlacementKey, list[Estimate]]:
        """The ratios of the batch sizes that are off now."""
        return {
            key: [
                Estimate(point.batch, cell.off_sum / cell.off_batches, cell.off_batches)
                for point, cell in zip(watched.points, watched.cells, strict=True)
                if cell.direction
            ]
            for key, watched in self._watched.items()
        }


def _estimates(watched: _Watched) -> tuple[Estimate, ...]:
    """The estimates of sizes that have drifted, and with them of sizes that never ran; in the order of sizes."""
    seen = [
        Estimate(point.batch, ratio, cell.off_batches)
        for point, cell, scale in zip(watched.points, watched.cells, watched.scale, strict=True)
        if cell.has_drifted
        and abs((ratio := _within_limits(cell.off_sum / cell.off_batches, scale)) - 1) >= LIMITS.min_change
    ]
    if not seen:
        return ()
    usual = mean_ratio(seen)
    others = [
        Estimate(point.batch, _within_limits(usual, scale), 0)
        for point, cell, scale in zip(watched.points, watched.cells, watched.scale, strict=True)
        if not cell.off_windows
    ]
    return tuple(sorted((*seen, *others), key=lambda each: each.batch))


def _within_limits(ratio: float, scale: float) -> float:
    """The part of a ratio that corrections may still make, where they are ``scale`` already."""
    low, high = LIMITS.corrections
    return min(max(scale * ratio, low), high) / scale


def corrected_profile(profile: Profile, corrections: Sequence[Correction], recorded: Recorded) -> Profile:
    """The profile with corrections of variants on its device, each marked as ``recorded``.

    All times of a point are scaled alike, as only their mean is known; ``runs`` is the number of served batches.
    """
    by_key = {(each.family, each.variant): each for each in corrections}
    variants = tuple(
        _corrected_variant(each, by_key[each.family, each.variant], recorded) if each.key in by_key else each
        for each in profile.variants
    )
    return replace(profile, variants=variants, measured_on=profile.device.id)


def _corrected_variant(measured: VariantProfile, correction: Correction, recorded: Recorded) -> VariantProfile:
    before = measured.recorded.points if isinstance(measured.recorded, Recorded) else ()
    scaled = {each.batch: each for each in before}
    points = {point.batch: point for point in measured.points}
    for batch, ratio, batches in ((each.batch, each.ratio, each.batches) for each in correction.estimates):
        factor = scaled[batch].factor if batch in scaled else 1.0
        scaled[batch] = RecordedPoint(batch, ratio * factor, batches)
        points[batch] = replace(points[batch].scaled(ratio), runs=batches or points[batch].runs)
    recorded = replace(recorded, points=tuple(scaled[batch] for batch in sorted(scaled)))
    return replace(measured, points=tuple(points.values()), recorded=recorded)


def rerated(plan: Plan, corrections: Sequence[Correction]) -> Plan:
    """The same plan with corrected capacities."""
    ratios = {
        (each.device, each.family, each.variant, estimate.batch): estimate.ratio
        for each in corrections
        for estimate in each.estimates
    }
    placements = (
        replace(p, capacity_qps=p.capacity_qps / ratios.get((p.device, p.family, p.variant, p.max_batch), 1.0))
        for p in plan.placements
    )
    return replace(plan, placements=tuple(placements))


# --- devices that several servers share
#
# Batches of the servers take turns, so that each server has the same part of a device's time while all of them want
# it. A server plans and serves as if the device were its own, but slower by the number of servers.


def shared_profile(profile: Profile, servers: int) -> Profile:
    """The profile of a device as one of several servers has it: slower, with a part of the memory. Loads stay."""
    if servers == 1:
        return profile
    device = replace(profile.device, memory_bytes=profile.device.memory_bytes // servers)

    def shared(points: Sequence[Point]) -> tuple[Point, ...]:
        return tuple(replace(point.scaled(servers), energy_j=point.energy_j) for point in points)

    variants = (replace(v, points=shared(v.points), concurrent=shared(v.concurrent)) for v in profile.variants)
    return replace(profile, device=device, variants=tuple(variants))


def with_shares(plan: Plan, before: Mapping[str, int], now: Mapping[str, int]) -> Plan:
    """The same plan with other capacities, where the number of servers that share a device has changed."""
    placements = (
        replace(p, capacity_qps=p.capacity_qps * before.get(p.device, 1) / now.get(p.device, 1))
        for p in plan.placements
    )
    return replace(plan, placements=tuple(placements))


def counted_s(alone_s: float, waited_s: float, servers: int) -> float:
    """The seconds of a batch, to be compared with the `shared_profile`: it ran for ``alone_s``, after it had waited.

    A wait for one turn of each other server is in the profile. A longer one is not: their batches are longer.
    """
    return max(servers * alone_s, alone_s + waited_s)
