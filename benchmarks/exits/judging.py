"""What came of requests with bounds, beside an oracle that knows how each batch will go."""

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
    """By request its sample, its bound and how long it took, both in seconds, and the exit that answered.

    A request that was refused took for ever, and no exit answered it: 0. ``reached`` is the last exit that the same
    batch had passed within the bound when all of it was run; 0 where not even the first had.
    """

    sample: Ints
    bound_s: Floats
    took_s: Floats
    exit: Ints
    reached: Ints

    @property
    def within_percent(self) -> float:
        """Of all requests, also of those that were refused."""
        return 100 * float(np.mean(self.took_s <= self.bound_s))

    @property
    def answered(self) -> Bools:
        answered: Bools = self.exit > 0
        return answered

    def accuracy_percent(self, samples: Samples) -> float:
        """Of the requests that were answered."""
        return self._accuracy_percent(samples, self.exit)

    def oracle_percent(self, samples: Samples) -> float:
        """The accuracy of an oracle that answers the same requests, each in the same batch, of the same device.

        It takes the last exit that this batch reaches in time, and goes no further than a sample's own exit. Where not
        even the first is in time, that counts.
        """
        return self._accuracy_percent(samples, np.clip(self.reached, 1, samples.stops_at[self.sample]))

    @property
    def possible_percent(self) -> float:
        """Of all requests, those that the first exit was in time for: what who knows each batch before keeps."""
        return 100 * float(np.mean(self.reached > 0))

    def _accuracy_percent(self, samples: Samples, exits: Ints) -> float:
        return 100 * float(np.mean(samples.right[exits - 1, self.sample][self.answered]))


def together(parts: Sequence[Requests]) -> Requests:
    """The requests of all parts, one after another."""
    columns = zip(*((each.sample, each.bound_s, each.took_s, each.exit, each.reached) for each in parts), strict=True)
    return Requests(*map(np.concatenate, columns))


def ends_of(requests: Requests) -> str:
    """How many were in time, late, of which those at the first exit are not for having gone on, and refused."""
    is_in_time = requests.took_s <= requests.bound_s
    late, refused = requests.answered & ~is_in_time, int(np.count_nonzero(~requests.answered))
    at_first = int(np.count_nonzero(late & (requests.exit == 1)))
    in_time, all_late = int(np.count_nonzero(is_in_time)), int(np.count_nonzero(late))
    return f"{in_time:,} in time, {all_late:,} late ({at_first:,} at the first exit), {refused:,} refused"


def losses_of(requests: Requests, samples: Samples) -> str:
    """Why requests were not in time that an oracle would have been, and where points of accuracy went."""
    in_time, could, answered = requests.took_s <= requests.bound_s, requests.reached > 0, requests.answered
    lost = could & ~in_time
    refused, first = int(np.count_nonzero(lost & ~answered)), int(np.count_nonzero(lost & (requests.exit == 1)))
    went_on = int(np.count_nonzero(lost)) - refused - first
    best = np.clip(requests.reached, 1, samples.stops_at[requests.sample])
    stopped, beyond = answered & (requests.exit < best), answered & (requests.exit > best)
    return (
        f"not in time though an oracle would be: {refused:,} refused, {first:,} late at the first exit, {went_on:,} by "
        f"going on; answered before the oracle's exit: {_percent(stopped)}, behind it: {_percent(beyond)}"
    )


def _percent(chosen: Bools) -> str:
    return f"{100 * np.mean(chosen):.2f} %"


def aims(requests: Requests, samples: Samples) -> list[Aim]:
    """What issue and docs promise. What is possible is what an oracle keeps; it has no accuracy below its own."""
    below = requests.oracle_percent(samples) - requests.accuracy_percent(samples)
    count = f"{len(requests.sample):,} requests"
    return [
        Aim(
            f"{count} within their bound", requests.within_percent, WITHIN_PERCENT, "%", is_most=False,
            possible=requests.possible_percent,
        ),
        Aim(f"{count}, accuracy below the oracle's", below, BELOW_ORACLE_POINTS, "points", is_most=True),
    ]  # fmt: skip
