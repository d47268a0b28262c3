"""How many batches a device should run at once: as many as still raise the throughput."""

from collections.abc import Iterator, Sequence

from proteus_cli.domain.capacity import points_in_time, slo_fraction
from proteus_cli.domain.profile import Point, VariantProfile

MAX_SLOTS = 4
GROWTH_FRAC = 0.03  # the least gain in throughput that justifies one more slot

MeasuredWithSlo = tuple[VariantProfile, float]
"""A measured variant, and the SLO of its family in seconds."""


def points_of_batch(measured: VariantProfile, batch: int) -> tuple[Point, ...]:
    """The points of one batch size, by rising slots."""
    return tuple(point for point in (*measured.points, *measured.concurrent) if point.batch == batch)


def is_settled(points: Sequence[Point], slo_s: float, max_slots: int) -> bool:
    """Whether no more slots need measuring: no more are allowed, the SLO is passed, or the last gained nothing."""
    last = points[-1]
    if last.slots >= max_slots or last.p95_s > slo_s:
        return True
    return len(points) > 1 and last.qps < (1 + GROWTH_FRAC) * points[-2].qps


def useful_slots(points: Sequence[Point]) -> int:
    """The number of slots of one batch size beyond which the next gains less than `GROWTH_FRAC`."""
    best = points[0]
    for point in points[1:]:
        if point.qps < (1 + GROWTH_FRAC) * best.qps:
            break
        best = point
    return best.slots


def missing_points(measured: VariantProfile, slo_s: float, slots: int) -> Iterator[tuple[int, int]]:
    """Each unmeasured (batch, slots) that might meet the SLO, up to a number of slots."""
    for point in measured.points:
        points = points_of_batch(measured, point.batch)
        known = {each.slots for each in points}
        if points[-1].p95_s <= slo_s:
            yield from ((point.batch, count) for count in range(2, slots + 1) if count not in known)


def best_slots(variants: Sequence[MeasuredWithSlo], max_slots: int = MAX_SLOTS) -> int:
    """The number of slots to serve a device with, whatever it hosts; ``max_slots`` at most.

    A device has one number of slots, while each plan may change which variants it hosts. It goes by the
    throughput within the SLO, in the mean over the variants, each relative to its own with one slot. Each step up must
    gain `GROWTH_FRAC`. Numbers that were not measured of all variants don't count.
    """
    alone = [(each, slo_s, _in_time_qps(each.points, slo_s)) for each, slo_s in variants]
    servable = [(each, slo_s, qps) for each, slo_s, qps in alone if qps > 0]
    if not servable:
        return 1
    numbers = sorted({point.slots for each, _, _ in servable for point in each.concurrent if point.slots <= max_slots})
    best, best_gain = 1, 1.0
    for slots in numbers:
        if any(True for each, slo_s, _ in servable for _ in missing_points(each, slo_s, slots)):
            break
        gain = sum(_in_time_qps(each.points_at(slots), slo_s) / qps for each, slo_s, qps in servable) / len(servable)
        if gain >= (1 + GROWTH_FRAC) * best_gain:
            best, best_gain = slots, gain
    return best


def _in_time_qps(points: Sequence[Point], slo_s: float) -> float:
    """The mean throughput of the best batch size that plans take by default, where one host serves a family."""
    return max((point.qps for point in points_in_time(points, slo_fraction(1) * slo_s)), default=0.0)
