"""What the benchmark of exits makes of requests: shares within bounds, and the accuracy that an oracle would have."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from short_forms import parse_condition

from benchmarks.exits import serving
from benchmarks.exits.emulated import CORES, STAGES_S, EmulatedChain, profile_of
from benchmarks.exits.joining import row_s
from benchmarks.exits.judging import Requests, Samples, aims, ends_of, losses_of
from benchmarks.exits.serving import EngineChain, OneDevice, run
from proteus_cli.backends.exits.runner import EXIT_NOTE
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds

SAMPLES = Samples(
    stops_at=np.array([1, 3, 3]),
    right=np.array([[True, False, True], [True, False, False], [False, True, True]]),
)


def requests(*each: tuple[int, float, float, int, int]) -> Requests:
    sample, bound_s, took_s, exits, reached = zip(*each, strict=True)
    return Requests(np.array(sample), np.array(bound_s), np.array(took_s), np.array(exits), np.array(reached))


REFUSED = (0, 1.0, math.inf, 0, 1)


def test_a_request_is_within_its_bound_to_the_point_and_one_that_is_refused_is_not() -> None:
    late = (0, 1.0, 1.1, 1, 1), (1, 1.0, 1.1, 2, 1)
    found = requests((0, 1.0, 1.0, 1, 1), *late, REFUSED, (0, 1.0, 0.5, 1, 1))
    assert found.within_percent == pytest.approx(40.0)
    assert ends_of(found) == "2 in time, 2 late (1 at the first exit), 1 refused"


@pytest.mark.parametrize(
    ("sample", "reached", "is_right"),
    [
        (0, 3, True),  # it stops at exit 1, and goes no further
        (1, 3, True),  # exit 3 is in time
        (1, 2, False),  # exit 2 is, and wrong
        (2, 2, False),
        (2, 1, True),
    ],
)
def test_the_oracle_takes_the_last_exit_in_time(sample: int, reached: int, is_right: bool) -> None:  # noqa: FBT001
    assert requests((sample, 1.0, 0.1, 1, reached)).oracle_percent(SAMPLES) == 100.0 * is_right


def test_aims_compare_with_the_oracle_where_both_answer() -> None:
    """All answers are in time; one was cut short too early, and is wrong by that. What is refused is not in time."""
    within, below = aims(requests((1, 8.0, 3.0, 2, 3), (0, 8.0, 1.0, 1, 1)), SAMPLES)
    assert (within.measured, within.is_reached) == (100.0, True)
    assert (below.measured, below.is_reached) == (50.0, False)
    within, below = aims(requests((1, 8.0, 3.0, 2, 3), (0, 8.0, 1.0, 1, 1), REFUSED), SAMPLES)
    assert within.measured == pytest.approx(100 * 2 / 3)
    assert below.measured == 50.0


def test_what_no_policy_keeps_is_not_possible_and_losses_are_told_apart() -> None:
    impossible, cut, went_on = (0, 1.0, 1.5, 1, 0), (1, 8.0, 3.0, 2, 3), (1, 2.0, 3.0, 3, 2)
    found = requests(impossible, cut, went_on, REFUSED)
    assert found.possible_percent == 75.0
    assert aims(found, SAMPLES)[0].possible == 75.0
    assert losses_of(found, SAMPLES) == (
        "not in time though an oracle would be: 1 refused, 0 late at the first exit, 1 by going on; "
        "answered before the oracle's exit: 25.00 %, behind it: 25.00 %"
    )


def test_what_a_request_passed_counts_as_it_was_for_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second stage took 5 s. When the batch is run again, each stage takes 1 s, and the answer 0.1 s."""
    now_s, script = [0.0], [(2.0, 5.0), (1.0, 1.0, 1.0, 1.0)]

    class Runner:
        def infer(self, _inputs: object, _bounds: object, clock: Callable[[], float]) -> Any:
            times_s = script.pop(0)
            clock()
            for time_s in times_s:
                now_s[0] += time_s
                clock()
            now_s[0] += 0.1
            clock()
            return {EXIT_NOTE: np.array([len(times_s)])}

    monkeypatch.setattr(serving, "monotonic", lambda: now_s[0])
    runner: Any = Runner()
    chain = EngineChain(runner, {}, 4)
    assert chain.run(ExitBounds([1.0], [1], [])) == 2
    assert chain.ends_s() == pytest.approx([2.1, 7.1, 8.1, 9.1])


def test_an_emulated_core_keeps_bounds_that_it_has_time_for() -> None:
    """A quiet core, of requests that have ten times what the whole chain takes: each answers at its own exit."""
    stops_at = np.array([1, 2, 3, 4])
    chain = EmulatedChain(CORES[0], stops_at, np.random.default_rng(1))
    family = Family(
        "f", "100ms", (Variant("v", 0.9, exits=("a.onnx", "b.onnx"), stop_when=parse_condition("exit >= 1")),)
    )
    key = VariantKey("f", "v")
    device = OneDevice(key, profile_of(chain, key), Catalog(FORMAT, (family,)), chain)
    found = run(device, np.arange(100) % 4, np.full(100, 10 * sum(STAGES_S)))
    assert found.exit.tolist() == stops_at.tolist() * 25
    assert found.within_percent == found.possible_percent == 100.0
    assert run(device, np.zeros(20, np.int64), np.full(20, 1e-6)).answered.sum() == 0


def test_what_a_row_takes_by_itself_and_if_batches_joined() -> None:
    points = StagePoint(1, 1.0, 1.0), StagePoint(4, 2.5, 2.5)
    exits = (ExitProfile(share=0.5, points=points), ExitProfile(share=0.5, points=points))
    assert row_s(exits, 0) == (1.5, 1.5)  # one row, of which a half gets to the second stage
    assert row_s(exits, 1) == ((2.5 + 1.5) / 4, 1.5 * 2.5 / 4)  # four rows, of which two go on
