"""Which sure answers are checked, by which variant, and on which workers."""

from dataclasses import replace

import pytest
from builders import controller_hosting, hosted, make_cascade, make_request, plan_hosting
from msgspec.structs import replace as with_field

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Checker, Host, Launch
from proteus_cli.control.dispatch.checks import EveryNth
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import PeriodicRule
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.request import Request
from proteus_cli.domain.stages.cascade import CascadePoint, CascadeProfile, PlannedCascade, SureRows

FIRST = hosted("cpu0", "a", "a-s", latency_s={1: 0.01}, weight=10.0, capacity_qps=100.0, accuracy=0.8)
SECOND = hosted("cpu1", "a", "a-m", latency_s={1: 0.02}, weight=0.0, capacity_qps=50.0, accuracy=0.9)
BEST = hosted("cpu2", "a", "a-l", latency_s={1: 0.04}, weight=0.0, capacity_qps=25.0, accuracy=0.95)
FEW, MANY = SureRows(100, 2), SureRows(1000, 20)
CASCADE = make_cascade("a", "a-s", "a-m", rate_qps=10.0)
DEVICES = ("cpu0", "cpu1", "cpu2")
POLICY = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=1e6))
BY = VariantKey("a", "a-l")


class Check(Request, frozen=True, eq=False):
    is_check = True


CHECK = Check(7, "a", 0.0, 0.1)


def at(rows: SureRows | None, *, threshold: float = 0.5, cascade: PlannedCascade = CASCADE) -> CascadePoint:
    point = with_field(cascade.point, threshold=threshold)
    return point if rows is None else with_field(point, sure_rows=rows)


def plan_of(cascade: PlannedCascade) -> Plan:
    return plan_hosting(FIRST, SECOND, BEST, demand_qps={"a": 10.0}, devices=DEVICES, cascades=(cascade,))


def controller_of(
    cascade: PlannedCascade, *known: CascadeProfile, others: tuple[Host, ...] = (SECOND, BEST), slots: int = 1
) -> Controller:
    hosts = replace(FIRST, cascades=known), *others
    devices = dict.fromkeys(DEVICES, slots)
    return controller_hosting(*hosts, policy=POLICY, families=("a",), slots=devices, cascades=(cascade,))


def checker(cascade: PlannedCascade, *known: CascadeProfile) -> Checker | None:
    (route,) = controller_of(cascade, *known).cascades.in_use
    return route.checker


def profiled(second: str, point: CascadePoint) -> CascadeProfile:
    return CascadeProfile("a", "a-s", second, "digest", (point,))


def test_the_most_accurate_variant_checks_if_its_pair_was_profiled_at_the_threshold() -> None:
    in_use = with_field(CASCADE, point=at(FEW))
    assert checker(in_use, profiled("a-l", at(MANY))) == Checker(BY, MANY.disagreement())


@pytest.mark.parametrize("of_best", [at(None), at(MANY, threshold=0.6)], ids=["without rows", "another threshold"])
def test_else_the_second_stage_does(of_best: CascadePoint) -> None:
    in_use = with_field(CASCADE, point=at(FEW))
    assert checker(in_use, profiled("a-l", of_best)) == Checker(SECOND.key, FEW.disagreement())


def test_of_an_older_plan_the_profile_tells_what_is_expected() -> None:
    assert checker(CASCADE, profiled("a-m", at(FEW))) == Checker(SECOND.key, FEW.disagreement())


def test_where_nobody_knows_what_to_expect_the_most_accurate_variant_checks() -> None:
    assert checker(CASCADE) == Checker(BY, None)


A_S, B_S = VariantKey("a", "a-s"), VariantKey("b", "b-s")


def takes(due: EveryNth, first: VariantKey, *, can: bool = True) -> bool:
    """Whether an answer of that first stage is checked, which ``can`` be."""
    is_taken = due.is_due(first) and can
    if is_taken:
        due.taken(first)
    return is_taken


def test_every_nth_answer_of_a_first_stage_is_taken() -> None:
    due, keys = EveryNth(3), [A_S, B_S]
    assert [takes(due, keys[place % 2]) for place in range(12)] == [False] * 4 + [True, True] + [False] * 4 + [True] * 2
    assert not any(takes(EveryNth(0), A_S) for _ in range(1000))
    assert all(takes(EveryNth(1), A_S) for _ in range(3))


def test_what_can_not_be_checked_when_its_turn_has_come_leaves_it_to_the_next() -> None:
    due = EveryNth(3)
    assert [takes(due, A_S, can=place not in {2, 3}) for place in range(9)] == [False] * 4 + [True] + [False] * 2 + [
        True,
        False,
    ]


def test_the_count_of_a_variant_that_is_gone_is_forgotten() -> None:
    """A variant of its name begins anew."""
    due = EveryNth(3)
    for first in (A_S, B_S) * 2:
        assert not takes(due, first)
    due.forget({A_S})
    assert (takes(due, A_S), takes(due, B_S)) == (False, True)


def test_an_idle_worker_runs_a_check_at_once_and_is_free_again_after_it() -> None:
    controller = controller_of(CASCADE)
    launch = controller.dispatch.check(CHECK, BY, 0.0)
    assert launch == Launch(BEST, (CHECK,), 1, 0.0)
    assert controller.dispatch.check(CHECK, BY, 0.0) is None, "it is busy"
    assert controller.waiting == 0
    controller.finished(launch, 0.04)
    assert controller.dispatch.check(CHECK, BY, 0.04) is not None


def test_a_check_is_no_demand() -> None:
    controller = controller_of(CASCADE)
    before = controller.demand.counts_of("a").total
    assert controller.dispatch.check(CHECK, BY, 0.0) is not None
    assert controller.demand.counts_of("a").total == before


def test_a_busy_worker_or_one_that_has_work_to_do_runs_none() -> None:
    controller = controller_of(with_field(CASCADE, second="a-l"), others=(replace(BEST, device="cpu0"),))
    controller.offer(make_request(1), 0.0)
    assert controller.dispatch.check(CHECK, BY, 0.0) is None, "a request waits"
    launch = controller.decide("cpu0", 0.0)
    assert isinstance(launch, Launch)
    assert controller.dispatch.check(CHECK, BY, 0.0) is None, "it runs"
    controller.finished(launch, 0.01)
    assert controller.dispatch.check(CHECK, BY, 0.01) is not None


def test_nor_does_one_of_several_slots_that_runs_anything() -> None:
    controller = controller_of(CASCADE, slots=2)
    assert controller.dispatch.check(CHECK, BY, 0.0) is not None
    assert controller.dispatch.check(CHECK, BY, 0.0) is None


def test_beside_a_worker_with_one_of_two_slots_free_another_that_is_idle_runs_a_check() -> None:
    controller = controller_of(with_field(CASCADE, second="a-l"), others=(replace(BEST, device="cpu1"), BEST), slots=2)
    launches = [controller.dispatch.check(CHECK, BY, 0.0) for _ in range(3)]
    assert [each and each.hosted.device for each in launches] == ["cpu1", "cpu2", None]


def test_nor_a_device_that_is_lost_and_its_check_is_forgotten() -> None:
    controller = controller_of(CASCADE)
    launch = controller.dispatch.check(CHECK, BY, 0.0)
    assert launch is not None
    assert controller.device_lost("cpu2", [launch]).dropped == ()
    assert controller.dispatch.check(CHECK, BY, 0.0) is None
    assert controller.waiting == 0
    controller.device_recovered("cpu2", 1.0, (BEST,))
    assert controller.dispatch.check(CHECK, BY, 1.0) is not None


def test_what_checks_found_belongs_to_the_pair_and_its_models() -> None:
    in_use = with_field(CASCADE, point=at(FEW))
    controller = controller_of(in_use)
    (route,) = controller.cascades.in_use
    assert [controller.cascades.compared(route, disagrees=True) for _ in range(30)].count(True) == 1
    assert controller.cascades.checks_of("a") == (1.0, True)
    controller.adopt(plan_of(in_use), (FIRST, SECOND, BEST), 1.0)
    assert controller.cascades.checks_of("a") == (1.0, True), "of the same models, a drift lasts"
    other = with_field(CASCADE, point=at(FEW, threshold=0.7))
    controller.adopt(plan_of(other), (FIRST, SECOND, BEST), 2.0)
    assert controller.cascades.checks_of("a") == (1.0, False)
    assert controller.cascades.checks_of("b") == (None, False)
