"""What came of requests with bounds, beside an oracle that knows the exit at which each sample stops."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.tables import Aim
from proteus_cli.arrays import Bools, Floats, Ints

WITHIN_PERCENT = 99.5
BELOW_ORACLE_POINTS = 0.5


@dataclass(frozen=True, slots=True)
class Samples:
    """By sample the exit at which its condition holds; by exit and sample, whether the answer of that exit is right."""

    stops_at: Ints
    right: Bools


@dataclass(frozen=True, slots=True)
class Requests:
    """By request its sample, its bound and how long it took, both in seconds, and the exit that answered."""

    sample: Ints
    bound_s: Floats
    took_s: Floats
    exit: Ints

    @property
    def within_percent(self) -> float:
        return 100 * float(np.mean(self.took_s <= self.bound_s))

    def accuracy_percent(self, samples: Samples) -> float:
        return _accuracy_percent(samples, self.sample, self.exit)

    def oracle_percent(self, samples: Samples, stages_s: Sequence[float]) -> float:
        """The accuracy of the last exits that are within the bounds, if each stage takes its mean and no more.

        The oracle goes no further than a sample's own exit. Where not even the first is in time, that counts.
        """
        ends_s = np.cumsum(stages_s)
        reached = np.maximum(np.searchsorted(ends_s, self.bound_s, side="right"), 1)
        return _accuracy_percent(samples, self.sample, np.minimum(reached, samples.stops_at[self.sample]))


def _accuracy_percent(samples: Samples, sample: Ints, exits: Ints) -> float:
    return 100 * float(np.mean(samples.right[exits - 1, sample]))


def aims(requests: Requests, samples: Samples, stages_s: Sequence[float]) -> list[Aim]:
    """What issue and docs promise."""
    below = requests.oracle_percent(samples, stages_s) - requests.accuracy_percent(samples)
    count = f"{len(requests.sample):,} requests"
    return [
        Aim(f"{count} within their bound", requests.within_percent, WITHIN_PERCENT, "%", is_most=False),
        Aim(f"{count}, accuracy below the oracle's", below, BELOW_ORACLE_POINTS, "points", is_most=True),
    ]
