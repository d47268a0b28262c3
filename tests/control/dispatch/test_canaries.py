"""Two versions of a variant that serve together: who answers canaries, and who all others."""

import math
from dataclasses import replace

import pytest
from builders import hosted, ids, launched, plan_hosting, requests_waiting
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Admitted, HostedVariant, Launch
from proteus_cli.control.dispatch.canaries import standing_for_both
from proteus_cli.control.policies import Policy
from proteus_cli.control.rollouts.version_rollout import CanaryArm
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Bounds, DeferredRequest, Request
from proteus_cli.domain.rollouts import VersionPair

VERSIONS = VersionPair("a", "a-l", "a-l@2")
POLICY = Policy("test", "all", GreedyBatcher(), None)
SLO_S = 0.1
CANARY = Bounds(is_canary=True)


def host(device: str, variant: str, weight: float = 1.0, *, accuracy: float = 0.9) -> HostedVariant:
    return hosted(
        device, "a", variant, latency_s={1: 0.01, 4: 0.02}, weight=weight, capacity_qps=100 * weight, accuracy=accuracy
    )


OLD, NEW, SMALL = host("cpu0", "a-l", 0.9), host("cpu0", "a-l@2", 0.1), host("cpu1", "a-s", accuracy=0.8)


def controller_of(*hosts: HostedVariant, pair: VersionPair | None = VERSIONS, slots: int = 1) -> Controller:
    devices = tuple(dict.fromkeys(each.device for each in hosts))
    controller = Controller({"a": SLO_S}, dict.fromkeys(devices, slots), POLICY)
    controller.use_version_pair("a", pair)
    adopt(controller, *hosts)
    return controller


def adopt(controller: Controller, *hosts: HostedVariant) -> list[int]:
    """What a plan of these hosts drops."""
    plan = plan_hosting(*hosts, demand_qps={"a": 10.0}, devices=tuple({each.device for each in hosts}))
    return [request.id for request in controller.adopt(plan, hosts, 0.0).dropped]


def asking(number: int = 0, *, is_canary: bool = False, minimum: float = 0.0, now_s: float = 0.0) -> Request:
    bounds = CANARY if is_canary else None
    return Request(number, "a", now_s, now_s + SLO_S, min_accuracy=minimum, bounds=bounds)


def answers(controller: Controller, requests: list[Request], *, now_s: float = 0.0) -> dict[int, str]:
    """Which variant answers each, where all devices go on until nothing waits."""
    found: dict[int, str] = {}
    for request in requests:
        assert isinstance(controller.offer(request, now_s), Admitted)
    while requests_waiting(controller):
        for device in {each.device for each in controller.placements}:
            decision = controller.decide(device, now_s)
            if isinstance(decision, Launch):
                found |= dict.fromkeys(ids(decision), decision.hosted.variant)
                controller.finished(decision, 0.01)
    return found


def test_canaries_are_answered_by_the_new_version_and_all_others_by_the_old_one() -> None:
    requests = [asking(number, is_canary=number % 2 == 0) for number in range(8)]
    found = answers(controller_of(OLD, NEW), requests)
    assert found == {number: "a-l@2" if number % 2 == 0 else "a-l" for number in range(8)}


def test_before_any_request_is_a_canary_nobody_sees_the_new_version() -> None:
    """It is shadowed then."""
    found = answers(controller_of(OLD, NEW), [asking(number) for number in range(9)])
    assert set(found.values()) == {"a-l"}


def test_a_shadow_runs_on_an_idle_worker_of_the_new_version() -> None:
    controller = controller_of(OLD, NEW)
    shadow = asking(7)
    launch = controller.dispatch.launch_if_idle(shadow, VariantKey("a", "a-l@2"), 0.0)
    assert launch is not None
    assert launch.hosted.variant == "a-l@2"
    assert controller.dispatch.launch_if_idle(asking(8), VariantKey("a", "a-l@2"), 0.0) is None  # it is not idle now
    controller.finished(launch, 0.01)
    controller.offer(asking(9), 0.01)
    again = controller.dispatch.launch_if_idle(asking(8), VariantKey("a", "a-l@2"), 0.01)
    assert again is None  # the old version has to do there


def test_without_the_new_version_canaries_are_answered_as_all_others() -> None:
    controller = controller_of(OLD)
    assert answers(controller, [asking(is_canary=True)]) == {0: "a-l"}


def test_canaries_whose_bounds_the_new_version_does_not_keep_are_answered_as_all_others() -> None:
    controller = controller_of(OLD, replace(NEW, accuracy=0.85))
    assert answers(controller, [asking(is_canary=True, minimum=0.87), asking(1, is_canary=True, minimum=0.84)]) == {
        0: "a-l",
        1: "a-l@2",
    }


@pytest.mark.parametrize("is_canary", [False, True])
def test_what_a_first_stage_defers_is_answered_by_the_version_of_its_arm(*, is_canary: bool) -> None:
    """The plan has a cascade of other variants; the versions are as accurate as its second stage."""
    controller = controller_of(OLD, NEW, SMALL)
    bounds = (CANARY if is_canary else Bounds()).without(0.5)
    assert (bounds is not None) is is_canary
    deferred = DeferredRequest(7, "a", 0.0, SLO_S, min_accuracy=0.85, bounds=bounds)
    assert isinstance(controller.dispatch.defer(deferred, 0.0), Admitted)
    assert launched(controller, "cpu0", 0.0).hosted.variant == ("a-l@2" if is_canary else "a-l")


def test_canaries_that_wait_for_a_new_version_that_is_lost_are_answered_by_the_old_one() -> None:
    controller = controller_of(OLD, host("cpu1", "a-l"), NEW)
    launch_before = [asking(number, is_canary=True) for number in range(3)]
    for request in launch_before:
        controller.offer(request, 0.0)
    running = launched(controller, "cpu0", 0.0)
    effects = controller.device_lost("cpu0", [running])
    assert not effects.dropped
    assert requests_waiting(controller) == 3
    assert set(answers_of(controller, "cpu1")) == {0, 1, 2}
    assert isinstance(controller.offer(asking(4, is_canary=True), 0.0), Admitted)


def test_a_version_serves_where_a_device_that_hosts_it_does() -> None:
    controller = controller_of(host("cpu1", "a-l"), NEW)
    old, new = VariantKey("a", "a-l"), VariantKey("a", "a-l@2")
    assert controller.families["a"].serves(old.variant)
    assert controller.families["a"].serves(new.variant)
    controller.device_lost("cpu0", [])
    assert controller.families["a"].serves(old.variant)
    assert not controller.families["a"].serves(new.variant)


def answers_of(controller: Controller, device: str) -> list[int]:
    found: list[int] = []
    while requests_waiting(controller):
        launch = launched(controller, device, 0.0)
        assert launch.hosted.variant == "a-l"
        found += ids(launch)
        controller.finished(launch, 0.01)
    return found


def test_a_plan_without_the_new_version_has_canaries_answered_by_the_old_one() -> None:
    controller = controller_of(OLD, NEW)
    controller.offer(asking(is_canary=True), 0.0)
    assert adopt(controller, host("cpu0", "a-l")) == []
    assert answers_of(controller, "cpu0") == [0]


def test_a_plan_that_has_the_new_version_in_place_of_the_old_one_has_all_answered_by_it() -> None:
    controller = controller_of(OLD, NEW)
    controller.offer(asking(), 0.0)
    controller.offer(asking(1, is_canary=True), 0.0)
    assert adopt(controller, host("cpu0", "a-l@2")) == []
    assert answers(controller, [asking(2), asking(3, is_canary=True)]) == dict.fromkeys(range(4), "a-l@2")


def test_canaries_are_admitted_as_long_as_others_would_be() -> None:
    """Both versions have one device: what is before a request there counts, whichever version it is for."""

    def admitted(*hosts: HostedVariant, pair: VersionPair | None) -> int:
        controller = controller_of(*hosts, pair=pair)
        offers = [controller.offer(asking(number, is_canary=number % 10 == 0), 0.0) for number in range(100)]
        return sum(isinstance(each, Admitted) for each in offers)

    assert admitted(OLD, NEW, pair=VERSIONS) == admitted(host("cpu0", "a-l"), pair=None)


@examples(50, fuzzed=2000)
@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 0.02)), max_size=60))
def test_outside_of_roll_outs_decisions_are_the_same_whether_requests_are_canaries(
    arrivals: list[tuple[bool, float]],
) -> None:
    """A request may be marked a moment after its roll-out has ended."""

    def decisions(*, marked: bool) -> list[tuple[int, ...] | str]:
        controller, now_s, found = controller_of(OLD, SMALL, pair=None), 0.0, list[tuple[int, ...] | str]()
        for number, (is_canary, gap_s) in enumerate(arrivals):
            now_s += gap_s
            offered = controller.offer(asking(number, is_canary=marked and is_canary, now_s=now_s), now_s)
            found.append(str(offered))
            for device in ("cpu0", "cpu1"):
                decision = controller.decide(device, now_s)
                found.append(tuple(ids(decision)) if isinstance(decision, Launch) else str(decision))
                if isinstance(decision, Launch):
                    controller.finished(decision, 0.01)
        return found

    assert decisions(marked=True) == decisions(marked=False)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_the_canary_arm_has_its_share_of_keys(share: float) -> None:
    """Within 4.5 standard deviations, as one key in `total` is."""
    total, arm = 20_000, CanaryArm("digits-l@2", share)
    found = sum(arm.has(f"client-{number}") for number in range(total))
    assert abs(found - share * total) <= 4.5 * math.sqrt(total * share * (1 - share))


@examples(100, fuzzed=5000)
@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_who_is_a_canary_stays_one_while_the_share_grows(key: str, one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert CanaryArm("s", more).has(key) or not CanaryArm("s", less).has(key)
    assert not CanaryArm("s", 0.0).has(key)
    assert CanaryArm("s", 1.0).has(key)


def test_each_roll_out_draws_its_canaries_anew() -> None:
    keys = [str(number) for number in range(1000)]
    first, second = ([CanaryArm(salt, 0.5).has(key) for key in keys] for salt in ("a", "b"))
    assert 400 < sum(a == b for a, b in zip(first, second, strict=True)) < 600


def test_in_its_arm_each_version_has_the_rate_and_the_capacity_of_both() -> None:
    elsewhere = host("cpu1", "a-l", 1.0)
    old, new, other, small = standing_for_both([OLD, NEW, elsewhere, SMALL], VERSIONS)
    assert old.weight + other.weight == pytest.approx(2.0)
    assert old.capacity_qps + other.capacity_qps == pytest.approx(200.0)
    assert (new.weight, new.capacity_qps) == pytest.approx((2.0, 200.0))
    assert small is SMALL
