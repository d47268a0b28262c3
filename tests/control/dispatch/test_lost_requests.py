"""What becomes of the requests that run on a device as it is lost."""

import pytest
from builders import hosted, make_placement, make_plan, make_request, requests_waiting

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Launch
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Request

DEVICES = ("cpu0", "cpu1", "cpu2")


def controller_of(*devices: str) -> Controller:
    hosts = [hosted(device, "a", "a-s", latency_s={1: 0.01}, weight=1.0) for device in devices]
    controller = Controller({"a": 10.0}, dict.fromkeys(DEVICES, 1), policy_named("proteus"))
    plan = make_plan(*(make_placement(each.device, "a", "a-s") for each in hosts), devices=DEVICES)
    controller.adopt(plan, hosts, 0.0)
    return controller


def running(controller: Controller, device: str) -> Launch:
    launch = controller.decide(device, 0.0)
    assert isinstance(launch, Launch)
    return launch


def offered(controller: Controller, request: Request) -> Request:
    controller.offer(request, 0.0)
    return request


def test_one_that_was_on_two_lost_devices_fails_and_no_other() -> None:
    controller = controller_of(*DEVICES)
    request = offered(controller, make_request(0, slo_s=10.0))
    first = controller.device_lost("cpu0", [running(controller, "cpu0")])
    assert (first.requeued, first.failed, first.dropped) == ((request,), (), ())
    second = controller.device_lost("cpu1", [running(controller, "cpu1")])
    assert (second.requeued, second.failed, second.dropped) == ((), (request,), ())
    assert (requests_waiting(controller), controller.families["a"].rows) == (0, 0)


def test_one_that_has_ended_does_not_wait_again() -> None:
    controller = controller_of("cpu0", "cpu1")
    gone = offered(controller, make_request(0, slo_s=10.0))
    effects = controller.device_lost("cpu0", [running(controller, "cpu0")], lambda request: request is gone)
    assert (effects.requeued, effects.failed, effects.dropped) == ((), (), ())
    assert (requests_waiting(controller), controller.families["a"].rows) == (0, 0)


@pytest.mark.parametrize("end", ["finished", "cancelled", "forgotten"])
def test_the_losses_of_one_that_has_ended_count_no_more(end: str) -> None:
    """Else a server would remember each request that ever was on a lost device."""
    controller = controller_of("cpu0", "cpu1")
    request = offered(controller, make_request(0, slo_s=10.0))
    controller.device_lost("cpu0", [running(controller, "cpu0")])
    if end == "finished":
        controller.finished(running(controller, "cpu1"), 0.01)
    elif end == "cancelled":
        assert controller.dispatch.cancel(request).dropped == (request,)
    else:
        assert controller.dispatch.forget_all() == (request,)
    offered(controller, request)
    assert controller.device_lost("cpu1", [running(controller, "cpu1")]).requeued == (request,)


def test_a_background_request_fails_with_its_device() -> None:
    class Background(Request, frozen=True, eq=False):
        is_background = True

    controller = controller_of("cpu0", "cpu1")
    request = Background(0, "a", 0.0, 10.0)
    launch = controller.dispatch.launch_if_idle(request, VariantKey("a", "a-s"), 0.0)
    assert launch is not None
    effects = controller.device_lost(launch.hosted.device, [launch])
    assert (effects.requeued, effects.failed, effects.dropped) == ((), (request,), ())
    assert controller.families["a"].rows == 0
