"""What the benchmark of exits makes of requests: shares within bounds, and the accuracy that an oracle would have."""

import numpy as np
import pytest

from benchmarks.exits.judging import Requests, Samples, aims

STAGES_S = (1.0, 2.0, 4.0)  # exits end at 1, 3 and 7 s
SAMPLES = Samples(
    stops_at=np.array([1, 3, 3]),
    right=np.array([[True, False, True], [True, False, False], [False, True, True]]),
)


def requests(*each: tuple[int, float, float, int]) -> Requests:
    sample, bound_s, took_s, exits = zip(*each, strict=True)
    return Requests(np.array(sample), np.array(bound_s), np.array(took_s), np.array(exits))


def test_a_request_is_within_its_bound_to_the_point() -> None:
    assert requests((0, 1.0, 1.0, 1), (0, 1.0, 1.1, 1)).within_percent == 50.0


@pytest.mark.parametrize(
    ("sample", "bound_s", "is_right"),
    [
        (0, 9.0, True),  # it stops at exit 1, and goes no further
        (1, 7.0, True),  # exit 3 is just reached
        (1, 6.9, False),  # exit 2 is, and wrong
        (2, 3.0, False),
        (2, 2.9, True),
        (2, 0.5, True),  # not even exit 1 is in time: its answer counts
    ],
)
def test_the_oracle_takes_the_last_exit_in_time(sample: int, bound_s: float, is_right: bool) -> None:  # noqa: FBT001
    assert requests((sample, bound_s, 0.1, 1)).oracle_percent(SAMPLES, STAGES_S) == 100.0 * is_right


def test_aims_compare_with_the_oracle() -> None:
    """Both requests are in time; one was cut short too early, and is wrong by that."""
    within, below = aims(requests((1, 8.0, 3.0, 2), (0, 8.0, 1.0, 1)), SAMPLES, STAGES_S)
    assert (within.measured, within.is_reached) == (100.0, True)
    assert (below.measured, below.is_reached) == (50.0, False)
