"""Spares, which have no share of the demand, take what busy workers cannot make: in time for a batch at its p95."""

from collections.abc import Sequence

import pytest
from builders import controller_hosting, hosted, ids, launched, make_request, near

from proteus_cli.control.batching import GreedyBatcher, Start
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import IDLE, Admitted, HostedVariant, Launch, WaitUntil
from proteus_cli.control.policies import Policy

GREEDY = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
MEAN_S, P95_S = 0.020, 0.030  # a batch of one on a spare
SLOTS = {f"cpu{n}": 1 for n in range(4)}


def busy() -> HostedVariant:
    """The accurate variant, which has all of the quota: one row in 40 ms."""
    return hosted("cpu0", "a", "a-l", latency_s={1: 0.040}, max_batch=1, weight=1.0, capacity_qps=25.0, accuracy=0.95)


def spare(device: str, *, variant: str = "a-s", accuracy: float = 0.8, faster: float = 1.0) -> HostedVariant:
    return hosted(
        device, "a", variant, latency_s={1: P95_S / faster}, mean_latency_s={1: MEAN_S / faster},
        max_batch=1, weight=0.0, capacity_qps=50.0, accuracy=accuracy,
    )  # fmt: skip


def with_spares(*spares: HostedVariant) -> tuple[Controller, Launch]:
    """A controller whose cpu0 runs a batch that does not end."""
    controller = controller_hosting(busy(), *spares, policy=GREEDY, slots=SLOTS)
    assert asked(controller, 0, 0.0) == ("cpu0",)
    return controller, launched(controller, "cpu0", 0.0)


def asked(controller: Controller, number: int, at_s: float, slo_s: float = 0.1) -> Sequence[str]:
    answer = controller.offer(make_request(number, at_s=at_s, slo_s=slo_s), at_s)
    assert isinstance(answer, Admitted)
    return answer.devices


def ran(controller: Controller, device: str, times: float, batches: int = 1) -> None:
    """Have a spare run batches that take so many times as long as profiled."""
    for number in range(1000, 1000 + batches):
        asked(controller, number, 0.0, slo_s=10.0)
        waits = controller.decide(device, 0.0)
        assert isinstance(waits, WaitUntil)
        controller.finished(launched(controller, device, waits.at_s), MEAN_S * times)


def test_a_slowed_spare_begins_so_much_earlier() -> None:
    """It takes half as long again, up to 45 ms: of what is due at 100 ms, it begins by 55."""
    controller, _ = with_spares(spare("cpu1"))
    ran(controller, "cpu1", 1.5, batches=99)
    assert asked(controller, 1, 0.0) == ("cpu1",)
    waits = controller.decide("cpu1", 0.0)
    assert isinstance(waits, WaitUntil)
    assert waits.at_s == pytest.approx(0.1 - 1.5 * P95_S, abs=0.001)
    assert ids(launched(controller, "cpu1", waits.at_s)) == [1]


def test_a_request_does_not_wait_for_a_spare_that_is_too_slow_for_it() -> None:
    """cpu1 takes three times as long, up to 90 of the 80 ms that are left, and has been free for longest."""
    controller, _ = with_spares(spare("cpu1"), spare("cpu2"))
    ran(controller, "cpu1", 3.0, batches=99)
    ran(controller, "cpu2", 1.0)
    assert asked(controller, 1, 0.0, slo_s=0.1) == ("cpu1",)
    assert asked(controller, 2, 0.0, slo_s=0.08) == ("cpu2",)
    waits = controller.decide("cpu2", 0.0)
    assert waits == WaitUntil(near(0.040))
    assert ids(launched(controller, "cpu2", 0.040)) == [2]


def test_where_all_spares_of_a_kind_that_are_free_are_too_slow_a_faster_variant_is_asked() -> None:
    """cpu1 would take up to 90 of the 80 ms that are left; cpu3 is as accurate, and busy; cpu2 needs 15."""
    accurate = [spare(device, variant="a-m", accuracy=0.9) for device in ("cpu1", "cpu3")]
    controller, _ = with_spares(*accurate, spare("cpu2", faster=2.0))
    ran(controller, "cpu1", 3.0, batches=99)
    asked(controller, 1, 0.0)
    launched(controller, "cpu3", 0.065)
    assert asked(controller, 2, 0.0, slo_s=0.08) == ("cpu2",)


def test_a_request_that_no_spare_can_make_waits_for_the_accurate_device() -> None:
    """Both take three times as long, up to 90 ms, and 80 are left: cpu0 may still be free in time."""
    controller, _ = with_spares(spare("cpu1"), spare("cpu2"))
    for device in ("cpu1", "cpu2"):
        ran(controller, device, 3.0, batches=99)
    asked(controller, 1, 0.0, slo_s=0.08)
    assert [controller.decide(device, 0.0) for device in ("cpu1", "cpu2")] == [IDLE, IDLE]


@pytest.mark.parametrize(
    ("slowdown", "alone_s", "due_s", "moment_s"),
    [(1.346, 0.048, 0.11, 0.045392), (1.381, 0.055, 0.316, 0.240045), (1.319, 0.015, 0.149, 0.129215)],
)
def test_at_its_last_moment_a_slowed_spare_is_in_time(
    slowdown: float, alone_s: float, due_s: float, moment_s: float
) -> None:
    """What is left then, divided by the slowdown, is less than the batch takes alone: by the last digit."""
    own = hosted("cpu1", "a", "a-s", latency_s={1: alone_s}, max_batch=1)
    assert (due_s - moment_s) / slowdown < alone_s
    batching = GreedyBatcher(answer_frac=0.0).decide(make_request(slo_s=due_s), 1, own, moment_s, slowdown)
    assert batching == Start(1)
