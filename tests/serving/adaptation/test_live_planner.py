"""Who changes what plans are made from has the planner follow: the solver gets another one."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from builders import make_measured, make_placement, make_plan, make_profile, near

from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rollouts import VersionPair
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner, ProfileStore

PLAN = make_plan(make_placement("cpu0", "f", "v"))
OLD, NEW = make_measured("f", "v", 0.9, {1: 0.01}), make_measured("f", "v@2", 0.9, {1: 0.03})


class Solver:
    """What it was given: the plan whose rules count, and the time of a row by the old version's name."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(is_busy=True)
        self.given = list[tuple[Plan, float]]()

    def replanner(self, plan: Plan, profiles: Mapping[str, Profile]) -> tuple[Plan, float]:
        known = profiles["cpu0"].of("f", "v")
        assert known is not None
        return plan, known.points[0].mean_s

    def use(self, replanner: tuple[Plan, float]) -> None:
        self.given.append(replanner)


def test_plans_count_on_both_versions_while_one_is_rolled_out() -> None:
    solver: Any = Solver()
    planner = LivePlanner(solver, ProfileStore({"cpu0": make_profile("cpu0", OLD, NEW)}), solver)
    assert (planner.replans, planner.is_solving) == (True, True)
    planner.follow(PLAN)
    planner.version_pairs["f"] = VersionPair("f", "v", "v@2", 0.5)
    planner.follow(PLAN)
    assert solver.given == [(PLAN, 0.01), (PLAN, near(0.02))]


def test_where_nothing_replans_nobody_is_told() -> None:
    source: Any = Solver()
    planner = LivePlanner(source, ProfileStore({"cpu0": make_profile("cpu0", OLD)}), None)
    planner.follow(PLAN)
    assert (planner.replans, planner.is_solving, source.given) == (False, False, [])
