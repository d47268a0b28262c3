"""How many batches a device runs at once may change while it serves: nothing that runs is ended, and nobody idles."""

import pytest
from builders import controller_hosting, hosted, make_request

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import IDLE, NO_EFFECTS, HostedVariant, Launch
from proteus_cli.control.policies import Policy

GREEDY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)


def host(device: str, accuracy: float = 0.9) -> HostedVariant:
    """One row at a time."""
    return hosted(device, "a", f"a-{accuracy}", latency_s={1: 0.01}, max_batch=1, capacity_qps=300.0, accuracy=accuracy)


def controller_of(*hosts: HostedVariant, slots: int = 3, policy: Policy = GREEDY, ahead_s: float = 0.0) -> Controller:
    devices = dict.fromkeys((each.device for each in hosts), slots)
    return controller_hosting(*hosts, policy=policy, families=("a",), slots=devices, dispatch_ahead_s=ahead_s)


def offered(controller: Controller, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        controller.offer(make_request(number, slo_s=1.0), 0.0)


def launched_on(controller: Controller, device: str) -> list[Launch]:
    """What a device launches until it has nothing more to do."""
    found = []
    while (decision := controller.decide(device, 0.0)) != IDLE:
        if isinstance(decision, Launch):
            found.append(decision)
    return found


def test_what_runs_in_more_slots_than_are_used_ends_and_only_then_another_batch_starts() -> None:
    controller = controller_of(host("gpu0"))
    offered(controller, 5)
    running = launched_on(controller, "gpu0")
    assert len(running) == 3
    assert controller.dispatch.use_slots("gpu0", 1, 0.0) == NO_EFFECTS
    assert controller.workers["gpu0"].slots == 1
    for launch in running[:2]:
        controller.finished(launch, 0.01)
        assert not launched_on(controller, "gpu0")
    controller.finished(running[2], 0.01)
    assert len(launched_on(controller, "gpu0")) == 1


def test_a_device_that_gets_slots_is_asked_for_what_waits() -> None:
    controller = controller_of(host("gpu0"))
    controller.dispatch.use_slots("gpu0", 1, 0.0)
    offered(controller, 3)
    assert len(launched_on(controller, "gpu0")) == 1
    assert controller.dispatch.use_slots("gpu0", 3, 0.0).ask == ("gpu0",)
    assert len(launched_on(controller, "gpu0")) == 2


def test_who_is_free_is_asked_for_what_a_device_leaves_that_gives_slots_up() -> None:
    """The less accurate device lets a free slot of the more accurate one have the requests, until it is given up."""
    controller = controller_of(host("gpu0", 0.9), host("gpu1", 0.8))
    offered(controller, 1)
    (running,) = launched_on(controller, "gpu0")
    offered(controller, 1, first=1)
    assert controller.dispatch.use_slots("gpu0", 1, 0.0).ask == ("gpu1",)
    controller.finished(running, 0.01)


def test_a_lost_device_comes_back_with_the_slots_that_it_uses() -> None:
    controller = controller_of(host("gpu0"), host("gpu1"))
    controller.dispatch.use_slots("gpu0", 2, 0.0)
    offered(controller, 2)
    running = launched_on(controller, "gpu0")
    controller.dispatch.use_slots("gpu0", 1, 0.0)
    controller.device_lost("gpu0", running)
    controller.device_recovered("gpu0", 0.0, (host("gpu0"),))
    offered(controller, 6, first=2)
    assert len(launched_on(controller, "gpu0")) == 1


@pytest.mark.parametrize("assignment", ["late", "early"])
def test_idle_devices_change_their_slots_without_effects_on_others(assignment: str) -> None:
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None, assignment=assignment)  # type: ignore[arg-type]
    controller = controller_of(host("gpu0"), policy=policy)
    assert controller.dispatch.use_slots("gpu0", 2, 0.0).ask == ("gpu0",)
    offered(controller, 4)
    assert len(launched_on(controller, "gpu0")) == 2
    assert controller.dispatch.use_slots("gpu0", 1, 0.0) == NO_EFFECTS


def test_a_device_without_a_slot_and_one_that_runs_batches_ahead_are_refused() -> None:
    with pytest.raises(ValueError, match="gpu0 cannot use 0 slots"):
        controller_of(host("gpu0")).dispatch.use_slots("gpu0", 0, 0.0)
    with pytest.raises(ValueError, match="gpu0 cannot use 2 slots"):
        controller_of(host("gpu0"), slots=1, ahead_s=0.002).dispatch.use_slots("gpu0", 2, 0.0)
