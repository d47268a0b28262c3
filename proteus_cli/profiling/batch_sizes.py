"""Which batch size of a variant to measure next, and which ones no plan can use.

Sizes are powers of two. A plan uses a size only if its p95 is within the SLO. The largest such size carries the most,
or as much with less to do for each query. The order is: 1, which all estimates start from; then the largest that is
expected to meet the SLO; then the next smaller one, down to 2. A size is left out if a smaller one has exceeded the
SLO, or if its expected median exceeds it by more than the precision of a measurement.
"""

import math
from collections.abc import Iterator, Sequence

from proteus_cli.domain.profile import Point
from proteus_cli.profiling.closed_loop import STABLE_FRAC


def powers_of_two(max_batch: int) -> Iterator[int]:
    """1, 2, 4, … up to ``max_batch``."""
    batch = 1
    while batch <= max_batch:
        yield batch
        batch *= 2


def expected_s(points: Sequence[Point], batch: int) -> float:
    """The median latency that a batch size is expected to have, from the measured ones, which rise; 0 without any.

    The median: other programs may have held up some of the few runs of a small budget. Between two measured sizes it
    is linear. Beyond the largest it grows as between the last two. From a single size it grows with the number of
    rows, an upper limit for small models.
    """
    below = [point for point in points if point.batch <= batch]
    above = next((point for point in points if point.batch > batch), None)
    if not below:
        return above.p50_s if above is not None else 0.0
    last = below[-1]
    if above is not None:
        first, second = last, above
    elif len(below) > 1:
        first, second = below[-2], last
    else:
        return last.p50_s * batch / last.batch
    per_row_s = max(second.p50_s - first.p50_s, 0.0) / (second.batch - first.batch)
    return last.p50_s + (batch - last.batch) * per_row_s


def useful_sizes(points: Sequence[Point], slo_s: float, max_batch: int) -> list[int]:
    """The sizes that were not measured and that a plan might use, in the order in which to measure them."""
    measured = {point.batch for point in points}
    too_large = min((point.batch for point in points if point.p95_s > slo_s), default=math.inf)
    useful = [
        batch
        for batch in powers_of_two(max_batch)
        if batch not in measured and batch < too_large and expected_s(points, batch) <= (1 + STABLE_FRAC) * slo_s
    ]
    return [*useful[:1], *reversed(useful[1:])] if useful[:1] == [1] else useful[::-1]


def useless_sizes(points: Sequence[Point], slo_s: float, max_batch: int) -> list[int]:
    """The sizes that were not measured because no plan could use them, rising."""
    useful = set(useful_sizes(points, slo_s, max_batch))
    measured = {point.batch for point in points}
    return [batch for batch in powers_of_two(max_batch) if batch not in measured | useful]


def next_size(points: Sequence[Point], slo_s: float, max_batch: int, longest_s: float = math.inf) -> int | None:
    """The size to measure next, whose batches are expected to take ``longest_s`` at most; size 1 may take any time."""
    sizes = useful_sizes(points, slo_s, max_batch)
    return next((batch for batch in sizes if batch == 1 or expected_s(points, batch) <= longest_s), None)
