"""Requests that ask for a version: only its variants answer, in each stage of a cascade and in either arm."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from builders import hosted, ids, make_cascade, plan_hosting, requests_waiting, routes_of
from drawing import examples
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Admitted, HostedVariant, Launch, Refused, Unfit
from proteus_cli.control.policies import Policy
from proteus_cli.domain.request import AskedVersion, Bounds, DeferredRequest, Request
from proteus_cli.domain.rollouts import VersionPair
from proteus_cli.domain.stages.cascade import PlannedCascade

SLO_S = 0.1
POLICY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
VERSIONS = VersionPair("a", "l", "l@2")
CASCADE = make_cascade("a", "s", "l", rate_qps=5.0)
ACCURACY = {"s": 0.8, "m": 0.85, "l": 0.95, "l@2": 0.9}


def host(device: str, variant: str) -> HostedVariant:
    return hosted(
        device, "a", variant, latency_s={1: 0.01, 4: 0.02}, weight=1.0, capacity_qps=200.0,
        accuracy=ACCURACY[variant], power_w=10.0,
    )  # fmt: skip


S, M, OLD, NEW = host("cpu0", "s"), host("cpu1", "m"), host("cpu0", "l"), host("cpu0", "l@2")
ALL = (S, M, OLD, NEW)


def asking(number: int, *variants: str, minimum: float = 0.0, is_canary: bool = False) -> Request:
    version = AskedVersion("v", frozenset(variants)) if variants else None
    bounds = Bounds(is_canary=is_canary, version=version)
    return Request(number, "a", 0.0, SLO_S, min_accuracy=minimum, bounds=bounds)


def controller_of(
    *hosts: HostedVariant, pair: VersionPair | None = VERSIONS, cascades: Sequence[PlannedCascade] = ()
) -> Controller:
    controller = Controller({"a": SLO_S}, {"cpu0": 1, "cpu1": 1}, POLICY)
    controller.use_version_pair("a", pair)
    controller.adopt(plan_hosting(*hosts, demand_qps={"a": 4.0}, cascades=cascades), hosts, 0.0)
    return controller


def answers(controller: Controller, requests: list[Request]) -> dict[int, str]:
    """Which variant answers each that is admitted, where all devices go on until nothing waits."""
    found: dict[int, str] = {}
    for request in requests:
        if isinstance(controller.offer(request, 0.0), Admitted):
            while requests_waiting(controller):
                for device in ("cpu0", "cpu1"):
                    decision = controller.decide(device, 0.0)
                    if isinstance(decision, Launch):
                        found |= dict.fromkeys(ids(decision), decision.hosted.variant)
                        controller.finished(decision, 0.01)
    return found


SUBSETS = st.sets(st.sampled_from([*ACCURACY, "gone"]))


@examples(40, fuzzed=3000)
@given(st.sets(st.sampled_from(ALL), min_size=1), SUBSETS, st.sampled_from([0.0, 0.82, 0.93]), st.booleans())
def test_whoever_is_of_the_version_and_keeps_the_other_bounds_answers_in_either_arm_and_nobody_else(
    hosts: set[HostedVariant],
    variants: set[str],
    minimum: float,
    is_canary: bool,  # noqa: FBT001 - drawn
) -> None:
    """Each fit host answers, once all others are gone; without any, the request is refused at once."""
    request = asking(0, *(variants or {"gone"}), minimum=minimum, is_canary=is_canary)
    fit = {each for each in hosts if each.variant in variants and each.accuracy >= minimum}
    (answer,) = answers(controller_of(*hosts), [request]).values() or [None]
    assert (answer in {each.variant for each in fit}) if fit else answer is None
    assert isinstance(controller_of(*hosts).offer(request, 0.0), Admitted if fit else Unfit)
    for each in hosts:
        assert list(answers(controller_of(each), [request]).values()) == ([each.variant] if each in fit else [])


@examples(25, fuzzed=2000)
@given(st.lists(st.tuples(SUBSETS, st.booleans()), max_size=20))
def test_among_others_each_request_is_answered_by_its_version(asked: list[tuple[set[str], bool]]) -> None:
    requests = [asking(number, *each, is_canary=canary) for number, (each, canary) in enumerate(asked)]
    found = answers(controller_of(*ALL), requests)
    for number, (variants, is_canary) in enumerate(asked):
        possible = variants & ACCURACY.keys() if variants else ACCURACY.keys() - {"l" if is_canary else "l@2"}
        assert (found[number] in possible) if possible else number not in found


def test_what_is_available_in_place_of_a_version_has_both_of_a_pair() -> None:
    offered = controller_of(OLD, NEW, M).offer(asking(0, "s"), 0.0)
    assert isinstance(offered, Unfit)
    assert list(offered.available.items()) == [("l", 0.95), ("l@2", 0.9), ("m", 0.85)]


def test_a_version_whose_only_device_is_lost_is_refused_as_lost_and_not_answered_by_others() -> None:
    controller = controller_of(NEW, OLD, M)
    controller.device_lost("cpu0", [])
    offered = controller.offer(asking(0, "l@2"), 0.0)
    assert isinstance(offered, Refused)
    assert offered.is_lost
    assert answers(controller, [asking(1, "m")]) == {1: "m"}


def test_a_new_version_is_asked_for_before_any_request_is_a_canary_and_the_old_one_while_all_are() -> None:
    found = answers(controller_of(OLD, NEW), [asking(0, "l@2"), asking(1), asking(2, "l", is_canary=True)])
    assert found == {0: "l@2", 1: "l", 2: "l"}


@pytest.mark.parametrize(
    ("variants", "second"), [((), True), (("s",), False), (("s", "l"), True), (("s", "m"), False)], ids=str
)
def test_a_first_stage_asks_no_second_that_the_request_does_not_accept(
    variants: tuple[str, ...], *, second: bool
) -> None:
    """Nor is the accuracy of both to be expected then."""
    large = replace(OLD, device="cpu1", weight=0.0, deferred_qps=5.0)
    controller = controller_of(replace(S, weight=5.0), large, pair=None, cascades=(CASCADE,))
    controller.offer(asking(0, *variants), 0.0)
    launch = controller.decide("cpu0", 0.0)
    assert isinstance(launch, Launch)
    (route,) = routes_of(controller, launch)
    assert (route is not None) is second
    bounds = Bounds(min_expected_accuracy=0.9, version=AskedVersion("v", frozenset(variants)) if variants else None)
    alone = controller_of(replace(S, weight=5.0), large, pair=None, cascades=(CASCADE,))
    offered = alone.offer(Request(1, "a", 0.0, SLO_S, bounds=bounds), 0.0)
    assert isinstance(offered, Admitted if second else Unfit)


def test_what_a_second_stage_is_asked_is_asked_of_the_version() -> None:
    """A more accurate variant of another version would be as good for others."""
    unlimited = Bounds(version=AskedVersion("v", frozenset({"m"})))
    left = Bounds(max_energy_j=1.0, version=unlimited.version).without(0.25)
    assert left == Bounds(max_energy_j=0.75, version=unlimited.version)
    assert unlimited.without(float("inf")) == unlimited
    assert Bounds(min_confidence=1.0).without(0.25) is None
    controller = controller_of(S, M, OLD, pair=None)
    deferred = DeferredRequest(0, "a", 0.0, SLO_S, min_accuracy=0.8, bounds=unlimited)
    assert controller.dispatch.defer(deferred, 0.0) == Admitted(("cpu1",))


def test_the_most_rows_and_the_hosts_of_a_version_are_its_own() -> None:
    slow = hosted("cpu1", "a", "m", latency_s={1: 0.04, 4: 0.16}, weight=1.0, capacity_qps=20.0, accuracy=0.85)
    controller = controller_of(OLD, NEW, slow)
    both = [each for each in controller.families["a"].all_hosts if each.variant in {"l@2", "m"}]
    assert {each.variant for each in both} == {"l@2", "m"}
    assert {each.variant for each in controller.families["a"].hosts} == {"l", "m"}
    assert controller.dispatch.max_rows(both, SLO_S, at_most=8) == 8
    assert controller.dispatch.max_rows([each for each in both if each.variant == "m"], SLO_S, at_most=8) == 2


def test_a_version_that_is_only_shadowed_answers_who_asks_for_it_while_others_are_answered() -> None:
    devices = ("cpu0", "cpu1", "cpu2", "cpu3")
    old, new = ([replace(each, device=device) for device in devices] for each in (OLD, NEW))
    hosts = [*old, *(replace(each, weight=0.0, capacity_qps=0.0) for each in new)]
    controller = Controller({"a": SLO_S}, dict.fromkeys(devices, 1), POLICY)
    controller.use_version_pair("a", VERSIONS)
    controller.adopt(plan_hosting(*hosts, devices=devices), hosts, 0.0)
    for number in range(3):
        assert isinstance(controller.offer(Request(number, "a", 0.0, SLO_S), 0.0), Admitted)
    assert isinstance(controller.offer(asking(3, "l@2"), 0.0), Admitted)
