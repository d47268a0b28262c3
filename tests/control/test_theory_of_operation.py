"""The worked example in `proteus_cli.control` is true."""

from builders import controller_hosting, hosted, ids, launched, make_request

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.decision import IDLE, Admitted
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import PeriodicRule

POLICY = Policy("test", "all", GreedyBatcher(), PeriodicRule())


def test_the_worked_example() -> None:
    fast, spare = (
        hosted(device, "a", "fast", latency_s={1: 0.010, 4: 0.016}, weight=weight, capacity_qps=250.0)
        for device, weight in (("cpu0", 1.0), ("cpu1", 0.0))
    )
    controller = controller_hosting(fast, spare, policy=POLICY)
    assert [controller.offer(make_request(n), 0.0) for n in range(5)] == [Admitted(("cpu0",))] * 5
    first = launched(controller, "cpu0", 0.0)
    assert (first.rows, first.wake) == (3, ("cpu1",))
    assert controller.decide("cpu0", 0.0) == IDLE
    second = launched(controller, "cpu1", 0.0)
    assert ids(second) == [3, 4]
    assert controller.device_lost("cpu0", [first]).ask == ("cpu0", "cpu1")
    controller.finished(second, 0.012)
    assert ids(launched(controller, "cpu1", 0.012)) == [0, 1, 2]
    wanted = controller.replanning.decide(0.2)
    assert wanted is not None
    assert (wanted.reason, wanted.without.devices) == ("cpu0 was lost", frozenset({"cpu0"}))
