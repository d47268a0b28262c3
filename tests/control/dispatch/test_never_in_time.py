"""What no plan could answer in its time is refused at once, with the time that would do, and is no demand."""

from collections.abc import Mapping
from dataclasses import replace

import msgspec
import pytest
from builders import (
    controller_hosting,
    hosted,
    make_cascade_point,
    make_measured,
    make_plan,
    make_profile,
    requests_waiting,
)

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import (
    Admitted,
    HostedVariant,
    Launch,
    NeverInTime,
    OtherPlanNeeded,
    TooManyRows,
    Unfit,
)
from proteus_cli.control.dispatch.dispatch import RETRY_WITHOUT_CAPACITY_S
from proteus_cli.control.dispatch.eligibility import MAX_KEPT, Eligibility
from proteus_cli.control.policies import Policy, policy_named
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Bounds, Request
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.cascade import CascadeProfile

POLICY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
LARGE_S, SMALL_S = {1: 0.040, 4: 0.048}, {1: 0.010, 4: 0.016}
LARGE = hosted(variant="a-l", latency_s=LARGE_S, accuracy=0.95, power_w=10.0)
"""The only one that is hosted."""
MEASURED = (
    make_measured("a", "a-l", 0.95, LARGE_S, power_w=10.0),
    make_measured("a", "a-s", 0.8, SMALL_S, power_w=10.0),
)
PROFILES = {device: make_profile(device, *MEASURED) for device in ("cpu0", "cpu1")}
KEYS = frozenset({VariantKey("a", "a-l"), VariantKey("a", "a-s")})


def within(time_s: float, rows: int = 1, minimum: float = 0.0, priority: int = 0, **bounds: float) -> Request:
    asked = Bounds(**bounds) if bounds else None  # type: ignore[arg-type]
    return Request(0, "a", 1.0, 1.0 + time_s, rows, priority=priority, min_accuracy=minimum, bounds=asked)


def controller_of(
    profiles: Mapping[str, Profile] = PROFILES, policy: Policy = POLICY, rules: Rules | None = None
) -> Controller:
    controller = controller_hosting(LARGE, policy=policy, families=("a",))
    controller.placeable.use(profiles, KEYS)
    if rules is not None:
        plan = msgspec.structs.replace(make_plan(devices=("cpu0", "cpu1"), demand_qps={"a": 10.0}), rules=rules)
        controller.adopt(plan, (LARGE,), 0.0)
    return controller


def demand_qps(controller: Controller) -> float:
    return controller.demand.rate_qps("a", 0.2, 1.25)


@pytest.mark.parametrize(
    ("asked", "least_s"),
    [
        (within(0.009), 0.010),  # not even the fastest variant that a plan could place
        (within(0.009, priority=1), 0.010),
        (within(0.009, min_confidence=0.9), 0.010),
        (within(0.015, rows=4), 0.016),
        (within(0.039, minimum=0.9), 0.040),  # the small one is not accurate enough
        (within(0.039, min_expected_accuracy=0.9), 0.040),
        (within(0.009, max_energy_j=0.5), 0.010),
    ],
)
def test_what_nothing_could_answer_in_time_is_refused_at_once_and_no_demand(asked: Request, least_s: float) -> None:
    controller = controller_of()
    refused = controller.offer(asked, 1.0)
    assert isinstance(refused, NeverInTime)
    assert refused.least_timeout_s == pytest.approx(least_s)
    assert (demand_qps(controller), requests_waiting(controller)) == (0.0, 0)


@pytest.mark.parametrize("asked", [within(0.0401), within(0.0481, rows=4), within(0.0401, minimum=0.9)])
def test_what_something_hosted_could_answer_in_time_is_let_in(asked: Request) -> None:
    controller = controller_of()
    assert isinstance(controller.offer(asked, 1.0), Admitted)
    assert demand_qps(controller) == 5.0 * asked.rows


@pytest.mark.parametrize("is_busy", [True, False])
@pytest.mark.parametrize(
    ("asked", "least_s"),
    [
        (within(0.0101), 0.040),
        (within(0.0161, rows=4), 0.048),
        (within(0.043, rows=10), 0.120),
        (within(0.0101, max_energy_j=0.5), 0.040),
    ],
)
def test_what_only_another_plan_could_answer_is_refused_at_once_as_overload_is_and_is_demand(
    asked: Request, least_s: float, *, is_busy: bool
) -> None:
    """Whether or not the device is free. Of the small variant, which is not hosted, ten rows take 40 ms."""
    controller = controller_of()
    if is_busy:
        controller.offer(Request(9, "a", 0.0, 9.0), 0.0)
        assert isinstance(controller.decide("cpu0", 0.0), Launch)
    refused = controller.offer(asked, 1.0)
    assert isinstance(refused, OtherPlanNeeded)
    assert refused.least_timeout_s == pytest.approx(least_s)
    assert refused.retry_after_s == RETRY_WITHOUT_CAPACITY_S
    assert demand_qps(controller) == 5.0 * asked.rows
    assert requests_waiting(controller) == 0


@pytest.mark.parametrize(("time_s", "expected"), [(0.0501, Admitted), (0.0499, OtherPlanNeeded)])
@pytest.mark.parametrize("device", ["cpu0", "cpu1"])
def test_what_a_standby_for_the_overflow_may_answer_waits(time_s: float, expected: type[object], device: str) -> None:
    """Ten rows take the hosted variant 120 ms, its standby 50 ms, and the fastest that a plan could place 40 ms."""
    standby = hosted(device, "a", "a-s", latency_s={1: 0.010, 4: 0.020}, accuracy=0.8, power_w=10.0)
    standby = replace(standby, is_standby=True)
    controller = controller_of()
    controller.dispatch.host([LARGE], [standby])
    assert isinstance(controller.offer(within(time_s, rows=10), 1.0), expected)


@pytest.mark.parametrize(
    ("asked", "least_s"), [(within(0.043, rows=4, minimum=0.9), 0.048), (within(0.043, rows=11), 0.044)]
)
def test_more_rows_than_anything_could_answer_in_time_are_a_matter_of_rows(asked: Request, least_s: float) -> None:
    """Four rows take the hosted variant 48 ms, and the other is not accurate enough; 11 take the other 44 ms."""
    controller = controller_of()
    refused = controller.offer(asked, 1.0)
    assert isinstance(refused, TooManyRows)
    assert refused.max_rows == 2
    assert refused.least_timeout_s == pytest.approx(least_s)
    assert (demand_qps(controller), requests_waiting(controller)) == (0.0, 0)


def test_so_many_rows_that_took_long_to_arrive_had_time_enough() -> None:
    controller = controller_of()
    assert isinstance(controller.offer(within(0.049, rows=4, minimum=0.9), 1.005), Admitted)


def test_what_nothing_hosted_is_accurate_enough_for_is_told_so() -> None:
    assert isinstance(controller_of().offer(within(0.001, minimum=0.99), 1.0), Unfit)


def test_the_time_that_would_do_has_that_of_the_answers_way() -> None:
    """2 % of it is kept back."""
    controller = controller_of(policy=policy_named("proteus"))
    refused = controller.offer(within(0.0101), 1.0)
    assert isinstance(refused, NeverInTime)
    assert refused.least_timeout_s == pytest.approx(0.010 / 0.98)
    assert isinstance(controller.offer(within(refused.least_timeout_s + 1e-9), 1.0), OtherPlanNeeded)


def test_a_request_that_took_long_to_arrive_had_time_enough() -> None:
    controller = controller_of()
    assert isinstance(controller.offer(within(0.0401), 1.035), Admitted)
    assert demand_qps(controller) == 5.0


def test_the_published_systems_admit_it() -> None:
    assert isinstance(controller_of(policy=policy_named("proteus-paper")).offer(within(0.009), 1.0), Admitted)


@pytest.mark.parametrize(
    ("rules", "time_s"),
    [
        (Rules(min_accuracy={"a": 0.9}), 0.039),
        (Rules(min_accuracy={"a": 0.8}), 0.009),
        (Rules(slo_fraction=0.1), 0.009),
    ],
)
def test_only_what_plans_may_place_counts(rules: Rules, time_s: float) -> None:
    """With a tenth of the SLO, none but the small variant has a batch that a plan counts on."""
    controller = controller_of(rules=rules)
    assert isinstance(controller.offer(within(time_s), 1.0), NeverInTime)
    is_hosted = time_s > 0.03
    assert isinstance(controller.offer(within(time_s + 0.002), 1.0), Admitted if is_hosted else OtherPlanNeeded)


def test_what_the_catalog_does_not_have_counts_for_nothing() -> None:
    controller = controller_of()
    controller.placeable.use(PROFILES, {VariantKey("a", "a-l")})
    assert isinstance(controller.offer(within(0.020), 1.0), NeverInTime)


def test_a_device_that_joins_may_be_faster() -> None:
    profiles = dict(PROFILES)
    controller = controller_of(profiles)
    assert isinstance(controller.offer(within(0.005), 1.0), NeverInTime)
    profiles["gpu0"] = make_profile("gpu0", make_measured("a", "a-s", 0.8, {1: 0.004, 4: 0.005}), device_type="gpu")
    controller.add_device("gpu0", 1)
    assert isinstance(controller.offer(within(0.005), 1.0), OtherPlanNeeded)


def test_times_that_are_corrected_while_serving_count() -> None:
    profiles = dict(PROFILES)
    controller = controller_of(profiles)
    assert isinstance(controller.offer(within(0.011), 1.0), OtherPlanNeeded)
    slower = {rows: 2 * time_s for rows, time_s in SMALL_S.items()}
    profiles |= {device: make_profile(device, make_measured("a", "a-s", 0.8, slower)) for device in profiles}
    controller.use_profiles(profiles)
    assert isinstance(controller.offer(within(0.011), 1.0), NeverInTime)


@pytest.mark.parametrize(("uses_cascades", "is_refused"), [(True, False), (False, True)])
def test_a_cascade_that_plans_may_use_is_as_accurate_as_its_composition(
    *, uses_cascades: bool, is_refused: bool
) -> None:
    """Nothing that is hosted answers so soon; a cascade that begins with the small variant would."""
    cascade = CascadeProfile("a", "a-s", "a-l", "d", (make_cascade_point(0.5, 0.3, 0.9),))
    profiles = {device: msgspec.structs.replace(profile, cascades=(cascade,)) for device, profile in PROFILES.items()}
    controller = controller_of(profiles, rules=Rules(cascades=uses_cascades))
    refused = controller.offer(within(0.020, min_expected_accuracy=0.9), 1.0)
    assert isinstance(refused, NeverInTime) == is_refused


def test_requests_alike_are_refused_without_a_look_at_all_that_could_be_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands of hosts, a look at each takes milliseconds."""
    controller, looked, hosts = controller_of(), list[int](), Eligibility.hosts

    def look(fitness: Eligibility, kinds: int) -> list[HostedVariant]:
        looked.append(kinds)
        return hosts(fitness, kinds)

    monkeypatch.setattr(Eligibility, "hosts", look)
    for _ in range(3):
        assert isinstance(controller.offer(within(0.009), 1.0), NeverInTime)
    assert len(looked) == 1


def test_what_is_kept_of_requests_is_bounded() -> None:
    controller = controller_of()
    for rows in range(1, MAX_KEPT + 10):
        controller.offer(within(0.009, rows=rows), 1.0)
    placeable = controller.placeable.of("a")
    assert placeable is not None
    assert len(placeable._least_s) <= MAX_KEPT


def test_a_controller_that_knows_of_no_profiles_admits_it() -> None:
    assert isinstance(controller_hosting(LARGE, policy=POLICY, families=("a",)).offer(within(0.001), 1.0), Admitted)


def test_what_is_hosted_counts_though_no_plan_would_place_it() -> None:
    """A person has: the large variant has no batch within the tenth of the SLO that plans may count on."""
    controller = controller_of(rules=Rules(slo_fraction=0.1))
    refused = controller.offer(within(0.039, minimum=0.9), 1.0)
    assert isinstance(refused, NeverInTime)
    assert refused.least_timeout_s == pytest.approx(0.040)


def test_a_family_that_nothing_hosts_is_asked_about_like_others() -> None:
    controller = Controller({"a": 0.1}, {"cpu0": 1, "cpu1": 1}, POLICY)
    controller.placeable.use(PROFILES, KEYS)
    controller.adopt(make_plan(devices=("cpu0", "cpu1"), demand_qps={"a": 10.0}), (), 0.0)
    assert isinstance(controller.offer(within(0.009), 1.0), NeverInTime)
    assert demand_qps(controller) == 0.0
    controller.offer(within(0.011), 1.0)
    assert demand_qps(controller) == 5.0
