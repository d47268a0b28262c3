"""What batches take beside others: one scaling for plans, dispatch, simulations and emulated devices."""

import pytest
from builders import make_measured, make_profile, make_sharing_cost
from msgspec.structs import replace

from proteus_cli.domain.batch_times import beside, sharing_factor
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile

A, B, C = (VariantKey("f", name) for name in "abc")
MEASURED = make_measured("f", "a", 0.9, {1: 0.01, 4: 0.02}, at_once_s={2: {1: 0.012, 4: 0.03}})


def profile(*costs: tuple[tuple[VariantKey, ...], float]) -> Profile:
    sharing = tuple(make_sharing_cost(A, *others, ratio=ratio) for others, ratio in costs)
    return replace(make_profile("cpu0", MEASURED), sharing=sharing)


def test_what_costs_nothing_is_what_was_measured() -> None:
    """The very same, so that devices without a cost share tables as before."""
    one = profile(((B,), 1.0))
    for others in ((), (A,), (B,), (C,)):
        assert beside(one, MEASURED, others) is MEASURED


def test_all_times_take_longer_and_rates_fall() -> None:
    slowed = beside(profile(((B,), 1.5)), MEASURED, (B,))
    alone_and_two = (*MEASURED.points, *MEASURED.concurrent)
    for point, alone in zip((*slowed.points, *slowed.concurrent), alone_and_two, strict=True):
        for name in ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s"):
            assert getattr(point, name) == pytest.approx(1.5 * getattr(alone, name))
        assert point.qps == pytest.approx(alone.qps / 1.5)
    assert beside(profile(((B,), 1.5)), MEASURED, (A, B)) == slowed, "a variant costs itself nothing"


def test_to_leave_a_variant_out_never_makes_the_others_slower() -> None:
    """What was measured of three may be less than of two of them, by chance."""
    noisy = profile(((B,), 1.4), ((C,), 1.1), ((B, C), 1.2))
    assert [sharing_factor(noisy.sharing, A, others, 1) for others in ((B,), (C,), (B, C))] == [1.4, 1.1, 1.4]


def test_a_version_of_a_variant_costs_what_the_variant_does() -> None:
    one = profile(((B,), 1.5))
    assert sharing_factor(one.sharing, VariantKey("f", "a@2"), (VariantKey("f", "b@3"),), 1) == 1.5
    assert sharing_factor(one.sharing, VariantKey("f", "a@2"), (A,), 1) == 1
