"""Profiles while serving, corrected and shared; and the planner that follows them."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from builders import make_measured, make_placement, make_plan, make_profile, near

from proteus_cli.control.devices.slowness import Correction, Estimate
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rollouts import VersionPair
from proteus_cli.serving.adaptation.plan_inputs import LivePlanner, ProfileStore

MEASURED = {name: make_profile(name, make_measured("f", "v", 0.9, {1: 0.01})) for name in ("a/cpu0", "b/cpu0")}


def mean_s(profile: Profile) -> float:
    return profile.variants[0].points[0].mean_s


def test_a_device_that_is_shared_is_slower_until_it_is_not() -> None:
    profiles = ProfileStore(MEASURED)
    profiles.share("a/cpu0", 2)
    assert [mean_s(profile) for profile in profiles.values()] == [near(0.02), near(0.01)]
    assert [profiles.servers_of(device) for device in profiles] == [2, 1]
    assert profiles.shared == ["a/cpu0"]
    profiles.share("a/cpu0", 1)
    assert profiles.shared == []
    assert dict(profiles) == MEASURED


def test_a_correction_is_of_the_device_alone_and_shared_like_the_rest() -> None:
    profiles = ProfileStore(MEASURED)
    profiles.share("a/cpu0", 2)
    corrected = profiles.correct("a/cpu0", [Correction("a/cpu0", "f", "v", (Estimate(1, 1.5, 30),))])
    assert mean_s(corrected) == near(0.015)
    assert profiles.alone["a/cpu0"] == corrected
    assert mean_s(profiles["a/cpu0"]) == near(0.03)
    profiles.share("a/cpu0", 1)
    assert profiles["a/cpu0"] == corrected


def test_a_live_accuracy_counts_in_place_of_the_measured_one_and_leaves_it_where_it_is() -> None:
    profiles, key = ProfileStore(MEASURED), VariantKey("f", "v")
    profiles.share("a/cpu0", 2)
    profiles.use_accuracies({key: 0.7})
    assert {profile.variants[0].accuracy for profile in profiles.values()} == {0.7}
    assert dict(profiles.alone) == MEASURED
    corrected = profiles.correct("a/cpu0", [Correction("a/cpu0", "f", "v", (Estimate(1, 1.5, 30),))])
    assert (corrected.variants[0].accuracy, profiles["a/cpu0"].variants[0].accuracy) == (0.9, 0.7)
    assert mean_s(profiles["a/cpu0"]) == near(0.03)
    profiles.use_accuracies({})
    assert profiles["b/cpu0"] == MEASURED["b/cpu0"]


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
