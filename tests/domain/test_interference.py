"""What sharing costs: what counts of a measurement, and what follows for sets that were not measured."""

import math
from collections.abc import Callable

import msgspec
import pytest
from builders import MADE_BY
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.base import Value, checked
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.interference import (
    CostPoint,
    Interference,
    MeasuredVariant,
    SharingCost,
    SharingModel,
    VariantName,
)  # fmt: skip

A, B, C, D = (VariantKey("f", name) for name in "abcd")
RATIOS = st.floats(0.9, 3.0)


def point(ratio: float, *, batch: int = 1, margin: float = 0.01) -> CostPoint:
    return CostPoint(batch, 10, 0.001, ratio, ratio - margin, ratio + margin)


def cost(of: VariantKey, beside: tuple[VariantKey, ...], *points: CostPoint) -> SharingCost:
    return SharingCost(*of, tuple(VariantName(*each) for each in beside), points)


def file_of(*costs: SharingCost) -> Interference:
    keys = dict.fromkeys(key for each in costs for key in (each.key, *each.others))
    variants = tuple(MeasuredVariant(*key, "digest") for key in keys)
    return Interference(2, MADE_BY, "cpu", "cpu0", False, variants, costs)


def test_a_ratio_within_its_noise_costs_nothing() -> None:
    assert point(1.02, margin=0.03).factor == 1
    assert point(0.97, margin=0.01).factor == 1
    assert point(1.02, margin=0.01).factor == 1.02


def test_a_ratio_of_equal_times_costs_nothing_however_it_is_rounded() -> None:
    above = math.nextafter(1.0, 2.0)
    assert CostPoint(1, 10, 0.001, above, above, above).factor == 1
    assert point(1.001, margin=0.0005).factor == 1.001


def test_what_is_unknown_and_the_variant_itself_cost_nothing() -> None:
    model = SharingModel([cost(A, (B,), point(1.5))])
    assert model.factor(A, [A]) == model.factor(A, [C]) == model.factor(B, [A]) == 1
    assert model.factor(A, [A, B, B]) == 1.5
    assert model.unmeasured([A, B]) == [(B, A)]


def test_a_set_is_measured_where_each_of_it_was_beside_all_others() -> None:
    pairs = [cost(one, (other,), point(1.0)) for one in (A, B, C) for other in (A, B, C) if one != other]
    of_three = [cost(A, (B, C), point(1.0)), cost(B, (A, C), point(1.0)), cost(C, (A, B), point(1.0))]
    assert SharingModel(pairs).is_measured([A, B])
    assert not SharingModel(pairs).is_measured([A, B, C])
    assert not SharingModel([*pairs, *of_three[1:]]).is_measured([A, B, C])
    assert SharingModel(of_three).is_measured([C, B, A])
    assert not SharingModel(of_three).is_measured([A, B])


def test_a_set_is_free_where_no_part_of_it_costs_anything_at_any_batch() -> None:
    model = SharingModel([cost(A, (B,), point(1.0), point(1.2, batch=8)), cost(A, (C,), point(1.0))])
    assert model.is_free([A, C])
    assert model.is_free([B, C])
    assert not model.is_free([A, B, C])


def test_a_set_that_was_measured_counts_as_it_was_measured() -> None:
    model = SharingModel([cost(A, (B,), point(1.5)), cost(A, (C,), point(1.5)), cost(A, (C, B), point(1.7))])
    assert model.factor(A, [B, C]) == 1.7


@given(st.lists(RATIOS, min_size=3, max_size=3), st.permutations([B, C, D]))
def test_a_set_costs_what_its_worst_measured_part_does(ratios: list[float], order: list[VariantKey]) -> None:
    pairs = [cost(A, (other,), point(ratio)) for other, ratio in zip((B, C, D), ratios, strict=True)]
    model = SharingModel(pairs)
    part, whole = model.factor(A, order[:2]), model.factor(A, order)
    assert 1 <= part <= whole == max(model.factor(A, [other]) for other in order)
    with_set = SharingModel([*pairs, cost(A, (B, C), point(4.0))])
    assert with_set.factor(A, order) == 4.0
    assert with_set.factor(A, [D]) == model.factor(A, [D])


def test_between_two_batches_the_logarithm_of_the_batch_counts_and_beyond_them_the_nearest() -> None:
    model = SharingModel([cost(A, (B,), point(1.6, batch=2), point(1.2, batch=32))])
    by_batch = {batch: model.factor(A, [B], batch=batch) for batch in (1, 2, 8, 32, 64)}
    assert by_batch == pytest.approx({1: 1.6, 2: 1.6, 8: 1.4, 32: 1.2, 64: 1.2})


def test_without_a_variant_nothing_of_it_is_left() -> None:
    costs = cost(A, (B,), point(1.5)), cost(A, (B, C), point(1.7)), cost(C, (A,), point(1.1))
    left = file_of(*costs).without([C])
    assert left.costs == (costs[0],)
    assert [each.key for each in left.variants] == [A, B]


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"format": 1}, "this version reads 2"),
        ({"costs": [cost(A, (B,), point(1.5))] * 2}, "listed twice"),
        ({"costs": [cost(A, (C,), point(1.5))]}, "not listed"),
        ({"variants": [MeasuredVariant(*A, "x")] * 2}, "listed twice"),
        ({"emulate": True}, "unknown field"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(wrong: dict[str, object], problem: str) -> None:
    content = msgspec.to_builtins(file_of(cost(A, (B,), point(1.5))))
    assert msgspec.convert(content, Interference) == file_of(cost(A, (B,), point(1.5)))
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.convert({**content, **msgspec.to_builtins(wrong)}, Interference)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: cost(A, (A,), point(1.5)), "once"),
        (lambda: cost(A, (B, B), point(1.5)), "once"),
        (lambda: cost(A, (B,)), "points"),
        (lambda: cost(A, (B,), point(1.5, batch=2), point(1.5)), "rise"),
        (lambda: CostPoint(1, 10, 0.001, 1.5, 1.6, 1.7), "interval"),
        (lambda: CostPoint(1, 10, 0.0, 1.5, 1.4, 1.7), "alone_s"),
        (lambda: CostPoint(1, 0, 0.001, 1.5, 1.4, 1.7), "rounds"),
    ],
)
def test_senseless_costs_cannot_exist(make: Callable[[], Value], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        checked(make())
