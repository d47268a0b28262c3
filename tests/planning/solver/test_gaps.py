"""What a plan says of its gaps where the solver's proof ends early: parts of the demand, not of its own scales."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from builders import make_catalog, make_family, make_measured, make_profile

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.plan import Solver
from proteus_cli.domain.rules import Rules
from proteus_cli.planning.model.program import Program, SolverPoint
from proteus_cli.planning.planner import Planner
from proteus_cli.planning.solver import lexicographic
from proteus_cli.planning.solver.solve import OutOfTime, minimise

CATALOG = make_catalog(make_family("a", {"s": 0.7, "l": 0.9}))
MEASURED = (make_measured("a", "s", 0.7, {1: 0.01}), make_measured("a", "l", 0.9, {1: 0.02}))
"""On each device 100 and 50 qps."""


def solver_at(qps: float, rules: Rules | None = None, headroom: float = 1.0) -> Solver:
    """Of a plan for four devices on two hosts: 200 qps are sure where any host may be lost."""
    profiles = {device: make_profile(device, *MEASURED) for device in ("x/cpu0", "x/cpu1", "y/cpu0", "y/cpu1")}
    rules = rules or Rules(survive=1, survive_unit="host")
    planner = Planner(CATALOG, profiles, policy_named("proteus"), headroom=headroom, inputs={}, rules=rules)
    return planner({"a": qps}).solver


def proof_ends(monkeypatch: pytest.MonkeyPatch, change: Callable[[str, SolverPoint], SolverPoint]) -> None:
    """Solves are what they are, but what they prove is changed, by the name of the objective."""

    def ended(program: Program, column: int, **options: Any) -> SolverPoint | None:
        names = {columns[0]: name for name, columns in program.objectives.items()}
        found = minimise(program, column, **options)
        return found and change(names[column], found)

    monkeypatch.setattr(lexicographic, "minimise", ended)


def short_of_the_unserved(by: float) -> Callable[[str, SolverPoint], SolverPoint]:
    def change(objective: str, found: SolverPoint) -> SolverPoint:
        is_meant = objective == "unserved"
        return replace(found, bound=found.value - by, is_proven=False) if is_meant else found

    return change


@pytest.mark.parametrize("headroom", [1.0, 1.2])
def test_what_may_be_served_beyond_a_plan_is_a_part_of_the_demand(
    monkeypatch: pytest.MonkeyPatch, headroom: float
) -> None:
    """240 qps are asked of the 200 that survive a host: a proof that ends 0.2 % short says 0.2 %, not 20 %."""
    proof_ends(monkeypatch, short_of_the_unserved(0.002))
    solver = solver_at(240.0 / headroom, headroom=headroom)
    assert solver.status == "time limit"
    assert solver.unserved_gap == pytest.approx(0.002, rel=1e-3)
    assert solver.gap == pytest.approx(0.002, rel=1e-3)


def test_the_demand_that_no_device_could_serve_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 6,000 qps the solver only hears of 600, all variants on all devices: 1 % of these are 0.1 % of the demand."""
    proof_ends(monkeypatch, short_of_the_unserved(0.01))
    assert solver_at(6000.0).unserved_gap == pytest.approx(0.001, rel=1e-3)


def test_no_more_than_is_unserved_could_be_served_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the solver has proven nothing at all: 40 of 240 qps are unserved."""
    proof_ends(monkeypatch, short_of_the_unserved(float("inf")))
    assert solver_at(240.0).unserved_gap == pytest.approx(1 / 6, abs=1e-5)


def test_an_objective_without_any_time_left_is_not_called_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is served goes to the less accurate variant: 0.2 of accuracy, and nothing has proven that it must."""

    def change(objective: str, found: SolverPoint) -> SolverPoint:
        if objective == "loss":
            raise OutOfTime
        return found

    proof_ends(monkeypatch, change)
    solver = solver_at(240.0)
    assert solver.status == "time limit"
    assert solver.unserved_gap == pytest.approx(0.0, abs=1e-5)
    assert solver.gap == pytest.approx(0.2 * 200 / 240, abs=1e-4)


@pytest.mark.parametrize("qps", [100.0, 240.0])
def test_a_proven_plan_leaves_nothing_to_serve(qps: float) -> None:
    solver = solver_at(qps)
    assert solver.status == "optimal"
    assert solver.unserved_gap == pytest.approx(0.0, abs=1e-6)


def test_a_plan_for_an_absurd_demand_is_proven() -> None:
    """What all devices have is so small a part of it that a float hardly tells."""
    assert solver_at(1.7e308, headroom=1.05).unserved_gap == pytest.approx(0.0, abs=1e-6)
