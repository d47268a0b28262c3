import math

import pytest
from builders import make_catalog, make_family
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.cli.plan import parse_demand
from proteus_cli.domain.demand import check_demand
from proteus_cli.errors import UsageError

CATALOG = make_catalog(
    make_family("a", {"a-s": 0.8}, weight=3.0),
    make_family("b", {"b-s": 0.7}),
    make_family("c", {"c-s": 0.7}, weight=0.0),
)


def test_a_total_is_shared_by_weight() -> None:
    """Weights 3, 1 and 0: 1200 qps are 900, 300 and none."""
    assert parse_demand("1200qps", CATALOG) == {"a": 900.0, "b": 300.0, "c": 0.0}


def test_a_demand_by_family_ignores_weights_and_leaves_the_others_at_zero() -> None:
    assert parse_demand(" b = 80qps ,c=30qpm", CATALOG) == {"a": 0.0, "b": 80.0, "c": 0.5}


@given(st.floats(0, 1e9))
def test_what_is_shared_adds_up_to_the_total(total_qps: float) -> None:
    assert math.fsum(parse_demand(f"{total_qps!r}qps", CATALOG).values()) == pytest.approx(total_qps)


@pytest.mark.parametrize("text", ["d=5qps", "=5qps", "a=1qps,", "a=1qps,,b=1qps", "A=1qps"])
def test_an_unknown_family_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match="No family") as caught:
        parse_demand(text, CATALOG)
    assert "a, b, c" in caught.value.hint


def test_a_family_named_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="names `a` twice"):
        parse_demand("a=1qps,b=2qps,a=0qps", CATALOG)


@pytest.mark.parametrize("rate", ["nanqps", "-1qps", "infqps", "5", "", "5ms", "1qps=2qps"])
def test_a_bad_rate_is_refused(rate: str) -> None:
    with pytest.raises(UsageError):
        parse_demand(f"a={rate}", CATALOG)
    with pytest.raises(UsageError):
        parse_demand(rate, CATALOG)


def test_a_total_cannot_be_shared_where_all_weights_are_zero() -> None:
    weightless = make_catalog(make_family("a", {"a-s": 0.8}, weight=0.0))
    with pytest.raises(UsageError, match="weight 0") as caught:
        parse_demand("5qps", weightless)
    assert "by family" in caught.value.hint
    assert parse_demand("a=5qps", weightless) == {"a": 5.0}


@pytest.mark.parametrize("qps", [float("nan"), float("inf"), -1.0])
def test_a_demand_that_is_no_amount_is_refused(qps: float) -> None:
    with pytest.raises(UsageError, match="demand of `a`"):
        check_demand({"a": qps}, CATALOG)


def test_a_demand_of_a_family_that_the_catalog_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match="No family `z`"):
        check_demand({"z": 1.0}, CATALOG)
    check_demand({}, CATALOG)
    check_demand({"b": 0.0}, CATALOG)
