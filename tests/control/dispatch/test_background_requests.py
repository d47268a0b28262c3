"""Requests of no client, such as shadows: each runs alone on an idle worker, past all queues."""

from dataclasses import replace

from builders import controller_hosting, hosted, make_request, requests_waiting

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import HostedVariant, Launch
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import PeriodicRule
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Request

FIRST = hosted("cpu0", "a", "a-s", latency_s={1: 0.01}, weight=10.0, capacity_qps=100.0, accuracy=0.8)
BEST = hosted("cpu2", "a", "a-l", latency_s={1: 0.04}, weight=0.0, capacity_qps=25.0, accuracy=0.95)
POLICY = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=1e6))
BY = VariantKey("a", "a-l")


class Background(Request, frozen=True, eq=False):
    is_background = True


REQUEST = Background(7, "a", 0.0, 0.1)


def controller_of(*others: HostedVariant, slots: int = 1) -> Controller:
    devices = dict.fromkeys(("cpu0", "cpu1", "cpu2"), slots)
    return controller_hosting(FIRST, *(others or (BEST,)), policy=POLICY, families=("a",), slots=devices)


def test_an_idle_worker_runs_a_background_request_at_once_and_is_free_again_after_it() -> None:
    controller = controller_of()
    launch = controller.dispatch.launch_if_idle(REQUEST, BY, 0.0)
    assert launch == Launch(BEST, (REQUEST,), 1, 0.0)
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 0.0) is None, "it is busy"
    assert requests_waiting(controller) == 0
    controller.finished(launch, 0.04)
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 0.04) is not None


def test_a_background_request_is_no_demand() -> None:
    controller = controller_of()
    before = controller.demand.counts_of("a").total
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 0.0) is not None
    assert controller.demand.counts_of("a").total == before


def test_a_busy_worker_or_one_that_has_work_to_do_runs_none() -> None:
    controller = controller_of(replace(BEST, device="cpu0"))
    controller.offer(make_request(1), 0.0)
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 0.0) is None, "a request waits"
    launch = controller.decide("cpu0", 0.0)
    assert isinstance(launch, Launch)
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 0.0) is None, "it runs"
    controller.finished(launch, 0.01)
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 0.01) is not None


def test_nor_does_one_of_several_slots_that_runs_anything() -> None:
    controller = controller_of(slots=2)
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 0.0) is not None
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 0.0) is None


def test_beside_a_worker_with_one_of_two_slots_free_another_that_is_idle_runs_it() -> None:
    controller = controller_of(replace(BEST, device="cpu1"), BEST, slots=2)
    launches = [controller.dispatch.launch_if_idle(REQUEST, BY, 0.0) for _ in range(3)]
    assert [each and each.hosted.device for each in launches] == ["cpu1", "cpu2", None]


def test_nor_a_device_that_is_lost_and_its_request_is_forgotten() -> None:
    controller = controller_of()
    launch = controller.dispatch.launch_if_idle(REQUEST, BY, 0.0)
    assert launch is not None
    assert controller.device_lost("cpu2", [launch]).dropped == ()
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 0.0) is None
    assert requests_waiting(controller) == 0
    controller.device_recovered("cpu2", 1.0, (BEST,))
    assert controller.dispatch.launch_if_idle(REQUEST, BY, 1.0) is not None
