"""Dispatch in overload: a plan's capacity is kept, whatever it hosts, and what ends the overload ends its effects."""

from collections.abc import Sequence

import pytest
from drawing import examples
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.dispatch import LEARNED_S, recovered_fracs, violations_frac, world

WORKERS = st.sampled_from([12, 30, 60])
MIXES = st.lists(st.integers(0, 5), min_size=1, max_size=6)
"""Variants, from the fastest to the slowest; workers have them in turn."""
LOADS, SLOWER = st.sampled_from([0.9, 1.0, 1.1, 1.3, 2.0]), st.sampled_from([1.05, 1.15, 1.3])


@given(WORKERS, MIXES, LOADS)
@examples(30, fuzzed=200)
@example(30, [4], 1.1)
@example(12, [5, 5, 0, 5, 4], 1.0)
@example(12, [5], 1.0)
@example(30, [5, 5, 5, 0], 2.0)
def test_goodput_of_any_mix_is_nearly_all_that_it_could_answer(workers: int, mix: Sequence[int], load: float) -> None:
    """What it could answer is counted as if rows were as divisible as water: with batches of 100 ms of 150, 5 % less.

    `python -m benchmarks.simulator --parts overload` has two workers, where knowing arrivals brings larger batches.
    """
    assert world(workers, mix).run([(load, 3.0)]).goodput_frac >= 0.93


@given(WORKERS, MIXES, LOADS, SLOWER)
@examples(20, fuzzed=150)
@example(12, [5, 3], 2.0, 1.15)
@example(30, [4], 1.1, 1.05)
def test_goodput_of_slow_devices_is_that_of_a_plan_with_their_true_times(
    workers: int, mix: Sequence[int], load: float, slower: float
) -> None:
    each = world(workers, mix)
    run = each.run([(load, 6.0)], slower=slower, warm_up_s=LEARNED_S)
    assert run.served >= 0.95 * each.informed(slower).run([(load, 6.0)], warm_up_s=LEARNED_S).served


@pytest.mark.parametrize("workers", [1, 2, 12, 60])
def test_two_seconds_after_a_surge_it_is_as_if_there_had_been_none(workers: int) -> None:
    each = world(workers)
    run = each.run([(0.6, 2.0), (2.0, 2.0), (0.6, 4.0)])
    calm = each.run([(0.6, 8.0)])
    assert violations_frac(run.result, 2.0, 4.0) > 0.3
    assert violations_frac(run.result, 6.0, 8.0) <= violations_frac(calm.result, 1.0, 8.0) + 0.01


@pytest.mark.parametrize("workers", [2, 12])
@pytest.mark.parametrize("load", [0.9, 1.1, 2.0])
def test_two_seconds_after_devices_were_slow_goodput_is_back(workers: int, load: float) -> None:
    """They took 5, 15 or 30 % longer for three seconds."""
    assert min(recovered_fracs(world(workers), load).values()) >= 0.95


def test_below_its_capacity_a_plan_answers_nearly_all() -> None:
    """At nine tenths of the capacity of 60 workers next to nothing is lost."""
    assert world(60).run([(0.9, 4.0)]).violations_frac < 0.002
