"""What it could bring if rows of several batches joined between the exits of a chain, at best.

A batch goes through its stages by itself, with fewer rows from stage to stage. If rows of other batches filled it up
again before each stage, and nobody ever waited for that, each stage would run as many rows as the first. The times of
both are those of the profile, the rows that get to a stage those that it knows.
"""

from collections.abc import Sequence

import numpy as np

from benchmarks.tables import Table
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.stages.exits import ExitProfile


def table(profile: Profile) -> Table:
    """By variant and batch: microseconds for a row, and what joining gains."""
    rows = []
    for variant in profile.variants:
        for place, point in enumerate(variant.exits[0].points):
            alone_s, joined_s = row_s(variant.exits, place)
            gain = f"{100 * (alone_s / joined_s - 1):+.1f} %"
            rows.append((variant.variant, str(point.batch), f"{1e6 * alone_s:.1f}", f"{1e6 * joined_s:.1f}", gain))
    return Table(
        "Batches of a chain by themselves, and joined",
        ("variant", "rows", "alone, µs", "joined, µs", "gain"),
        tuple(rows),
    )


def row_s(exits: Sequence[ExitProfile], place: int) -> tuple[float, float]:
    """What a row takes in the mean, of a batch of the size of that point: by itself, and joined, in seconds.

    Fewer than one row, in the mean, is one in that part of the batches.
    """
    shares = [each.share or 0.0 for each in exits]
    reached = [1.0 - sum(shares[:stage]) for stage in range(len(exits))]
    size = exits[0].points[place].batch
    alone_s = joined_s = 0.0
    for part, each in zip(reached, exits, strict=True):
        sizes, means_s = [point.batch for point in each.points], [point.mean_s for point in each.points]
        left = max(part * size, 1.0)
        alone_s += min(part * size, 1.0) * float(np.interp(left, sizes, means_s)) / size
        joined_s += part * means_s[place] / size
    return alone_s, joined_s
