"""What the last seconds brought, from counts since the start."""

import pytest

from proteus_cli.domain.request import Outcome
from proteus_cli.serving.counts import FamilyCounts, family_counts
from proteus_cli.serving.recent import OVER_S, Recent, quantile

BOUNDS = (0.1, 0.2, 0.4)


@pytest.mark.parametrize(
    ("counts", "part", "expected"),
    [
        ([10, 0, 0, 0], 0.5, 0.05),  # in the middle of the first bucket
        ([10, 10, 0, 0], 0.75, 0.15),
        ([0, 0, 100, 0], 0.99, 0.398),
        ([98, 0, 0, 2], 0.99, None),  # beyond the last bound
        ([0, 0, 0, 0], 0.99, None),
        ([99, 0, 0, 1], 0.99, 0.1),
    ],
)
def test_a_quantile_is_linear_within_its_bucket(counts: list[int], part: float, expected: float | None) -> None:
    assert quantile(counts, BOUNDS, part) == (None if expected is None else pytest.approx(expected))


class World:
    """Counts of one family, on a clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.counts = family_counts({"a": 0.1}, {"a": 8})
        self.recent = Recent(self.counts, lambda: self.now_s)

    @property
    def of_a(self) -> FamilyCounts:
        return self.counts["a"]

    def second(self, served: int, latency_s: float) -> None:
        for _ in range(served):
            self.of_a.ended(Outcome.SERVED, "v", "cpu0")
            self.of_a.latency.add(latency_s)
        self.now_s += 1.0
        self.recent.sample()


def test_what_is_older_than_the_window_no_longer_counts() -> None:
    world = World()
    for _ in range(20):
        world.second(served=50, latency_s=0.4)
    for _ in range(OVER_S):
        world.second(served=10, latency_s=0.01)
    window = world.recent.windows()["a"]
    assert (window.seconds, window.throughput_qps) == (OVER_S, 10.0)
    assert window.outcomes["served"] == 10 * OVER_S
    assert window.p99_s is not None
    assert window.p99_s <= 0.01


def test_before_the_first_second_there_is_nothing_to_divide_by() -> None:
    window = World().recent.windows()["a"]
    assert (window.seconds, window.throughput_qps, window.p99_s) == (0.0, 0.0, None)
