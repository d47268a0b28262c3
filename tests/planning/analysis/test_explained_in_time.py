"""What an explanation says where the time limit ends solves: that something is impossible only where that is known."""

from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from builders import make_catalog, make_family, make_measured, make_profile
from rich.console import Console

from proteus_cli.cli.plan_tables import explanation_tables
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.analysis.conflict import irreducible_conflict
from proteus_cli.planning.analysis.explain import Explanation, explain, largest_multiple
from proteus_cli.planning.planner import Planner
from proteus_cli.planning.search import PlacementSearch
from proteus_cli.planning.solver.solve import OutOfTime

CATALOG = make_catalog(make_family("a", {"s": 0.7, "l": 0.9}))
MEASURED = (
    make_measured("a", "s", 0.7, {1: 0.01}, power_w=10.0),
    make_measured("a", "l", 0.9, {1: 0.02}, power_w=10.0),
)
"""On each device 100 and 50 qps."""
TOO_LATE = "no plan was found in the time limit; give more with `--time-limit`"

LateAbove = Callable[..., None]


@pytest.fixture
def late_above(monkeypatch: pytest.MonkeyPatch) -> LateAbove:
    """Solves for more than a demand run out of time, with a plan or without one."""
    best = PlacementSearch.best

    def set_limit(late_qps: float, *, finds_some: bool = False, unserved_gap: float = 0.0) -> None:
        def limited(self: PlacementSearch, asked: Any, *others: Any) -> Any:
            if asked.demand_qps["a"] <= late_qps:
                return best(self, asked, *others)
            if finds_some:
                found = best(self, asked, *others).limited()
                return replace(found, solution=replace(found.solution, unserved_gap=unserved_gap))
            raise OutOfTime

        monkeypatch.setattr(PlacementSearch, "best", limited)

    return set_limit


def planner(rules: Rules | None = None) -> Planner:
    """Up to 200 qps."""
    profiles = {f"cpu{n}": make_profile(f"cpu{n}", *MEASURED) for n in range(2)}
    return Planner(CATALOG, profiles, policy_named("proteus"), headroom=1.0, inputs={}, rules=rules)


def explained(qps: float, rules: Rules | None = None) -> Explanation:
    return explain(planner(rules), planner(rules)({"a": qps}))


def shown(explanation: Explanation) -> str:
    file = StringIO()
    Console(file=file, width=200).print(explanation_tables(explanation, spent_on=None))
    return file.getvalue()


def test_an_alternative_without_a_plan_in_time_is_not_called_impossible(late_above: LateAbove) -> None:
    late_above(100.0)
    found = explained(100.0)
    (more,) = (price for price in found.prices if price.kind == "demand")
    assert (more.is_possible, more.is_limited) == (None, True)
    assert TOO_LATE in shown(found)
    assert "impossible" not in shown(found)


def test_an_alternative_that_no_plan_can_serve_is_impossible() -> None:
    """To use the least power, a plan has to serve all; 220 qps are more than both devices can."""
    found = explained(200.0, Rules(minimize="power"))
    (more,) = (price for price in found.prices if price.kind == "demand")
    assert (more.is_possible, more.is_limited) == (False, False)
    assert "impossible within the rules" in shown(found)


def test_an_effect_says_that_it_is_of_the_best_plan_in_time(late_above: LateAbove) -> None:
    late_above(100.0, finds_some=True)
    found = explained(100.0)
    (more,) = (price for price in found.prices if price.kind == "demand")
    assert (more.is_possible, more.is_limited) == (True, True)
    assert "points of relative accuracy (of the best plan in the time limit)" in shown(found)


@pytest.mark.parametrize(
    ("late_qps", "largest", "is_lower_bound"),
    [(150.0, 1.5, True), (250.0, 2.0, False), (0.0, 0.0, True)],
    ids=["below what is possible", "where it is known that there is no plan", "always"],
)
def test_a_multiple_is_a_lower_bound_where_a_solve_for_more_ran_out_of_time(
    late_above: LateAbove,
    late_qps: float,
    largest: float,
    is_lower_bound: bool,  # noqa: FBT001 - a case of the test
) -> None:
    late_above(late_qps)
    found = largest_multiple(planner(), {"a": 100.0})
    assert found.value == pytest.approx(largest, rel=0.005)
    assert found.is_lower_bound is is_lower_bound


def test_a_solve_that_ran_out_of_time_with_a_part_served_leaves_open_whether_all_can_be(late_above: LateAbove) -> None:
    """A limited plan for 220 qps serves 200 of them: nobody knows whether there is a better one."""
    late_above(200.0, finds_some=True, unserved_gap=0.01)
    assert largest_multiple(planner(), {"a": 100.0}).is_lower_bound


def test_it_is_known_that_not_all_can_be_served_where_only_the_accuracy_is_left_open(late_above: LateAbove) -> None:
    late_above(50.0, finds_some=True)
    found = largest_multiple(planner(), {"a": 100.0})
    assert found.value == pytest.approx(2.0, rel=0.005)
    assert not found.is_lower_bound


def test_what_is_known_of_the_largest_multiple_is_said(late_above: LateAbove) -> None:
    assert "At most 2.00 times this demand could be served" in shown(explained(100.0))
    late_above(100.0)
    assert "At least 1.00 times this demand is known to be possible" in shown(explained(100.0))
    late_above(50.0)
    assert "a solve for more ran out of time. Give more with `--time-limit`." in shown(explained(50.0))


ACCURATE = Rules(min_accuracy={"a": 0.9})
"""Up to 100 qps."""
CONFLICT = ("a: serve 150 qps", "a: only variants of accuracy 0.9 or more")


def test_a_demand_that_could_be_served_is_no_conflict_where_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Solves without the rule run out of time: the demand alone is not known to be too much."""
    assert irreducible_conflict(planner(ACCURATE), {"a": 150.0}) == CONFLICT
    best = PlacementSearch.best

    def limited(self: PlacementSearch, asked: Any, *others: Any) -> Any:
        if asked.demand_qps["a"] and not self._rules.min_accuracy:
            raise OutOfTime
        return best(self, asked, *others)

    monkeypatch.setattr(PlacementSearch, "best", limited)
    assert irreducible_conflict(planner(ACCURATE), {"a": 150.0}) == CONFLICT


def test_where_nothing_is_known_in_time_no_conflict_is_named(late_above: LateAbove) -> None:
    late_above(100.0)
    assert irreducible_conflict(planner(ACCURATE), {"a": 150.0}) == ()
