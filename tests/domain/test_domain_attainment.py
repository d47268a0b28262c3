import pytest
from builders import make_catalog, make_family, make_placement, make_plan, near
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.base import checked
from proteus_cli.domain.rules import Rules

CATALOG = make_catalog(make_family("a", {"a-s": 0.8}), make_family("b", {"b-s": 0.8}, attainment=0.9))


def test_the_error_budget_is_what_the_target_allows() -> None:
    """99.5 % of 2000 requests allow 10 violations; 4 of those used 40 % of them, 15 used 150 %."""
    some, many = (Attainment.of(2000, violations, 0.995) for violations in (4, 15))
    assert some == Attainment(0.995, 0.998, True, near(0.4))
    assert many == Attainment(0.995, 0.9925, False, near(1.5))


def test_without_requests_nothing_is_known() -> None:
    assert Attainment.of(0, 0, 0.9) == Attainment(0.9, None, None, None)


@given(st.integers(1, 10**6), st.integers(1, 9999))
def test_a_target_that_is_just_reached_is_met(thousands: int, per_ten_thousand: int) -> None:
    """Also where the target, a decimal fraction, is no sum of powers of two."""
    requests = 10_000 * thousands
    violations = (10_000 - per_ten_thousand) * thousands
    target = float(f"{per_ten_thousand}e-4")
    just, barely_not = (Attainment.of(requests, number, target) for number in (violations, violations + 1))
    assert just.met
    assert just.error_budget_used == pytest.approx(1)
    assert barely_not.met is False


def test_a_plan_for_another_target_replaces_those_of_the_catalog() -> None:
    plan = make_plan(make_placement("cpu0", "a", "a-s"))
    assert plan.with_attainment(None) == plan
    assert plan.rules.attainment_targets(CATALOG) == {"a": 0.995, "b": 0.9}
    assert plan.with_attainment(0.99).rules.attainment_targets(CATALOG) == {"a": 0.99, "b": 0.99}


@pytest.mark.parametrize("target", [0.0, 1.0, 99.9, float("nan")])
def test_rules_have_a_target_that_can_be_reached(target: float) -> None:
    with pytest.raises(ValueError, match="attainment"):
        checked(Rules(attainment=target))
