"""When loads leave the time to batches: wherever no request is lost until another plan is in force."""

from builders import controller_hosting, hosted, make_request

from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import PROTEUS
from proteus_cli.domain.catalog import VariantKey

CARRIES_QPS = 100.0
HOST = hosted(latency_s={1: 0.01, 4: 0.04}, capacity_qps=CARRIES_QPS)


def serving() -> Controller:
    """Family `a` is hosted on one of two devices, `b` nowhere."""
    return controller_hosting(HOST, policy=PROTEUS)


def offer(controller: Controller, qps: float, until_s: float, family: str = "a") -> None:
    for number in range(round(qps * until_s)):
        at_s = number / qps
        controller.offer(make_request(number, family=family, at_s=at_s), at_s)


def test_before_the_first_plan_nothing_is_left_to_batches() -> None:
    assert not Controller({"a": 0.1}, {"cpu0": 1}, PROTEUS).replanning.loads_give_way(0.0)


def test_loads_give_way_while_the_plan_in_force_carries_what_is_asked_for() -> None:
    controller = serving()
    offer(controller, 0.6 * CARRIES_QPS, 3.0)
    assert controller.replanning.loads_give_way(3.0)


def test_loads_do_not_give_way_while_more_is_asked_for_than_the_plan_carries() -> None:
    controller = serving()
    offer(controller, 2 * CARRIES_QPS, 3.0)
    assert not controller.replanning.loads_give_way(3.0)
    assert controller.replanning.loads_give_way(33.0), "the demand is gone"


def test_an_overload_of_one_family_is_enough() -> None:
    other = hosted("cpu1", "b", "b-s", latency_s={1: 0.01}, capacity_qps=CARRIES_QPS)
    controller = controller_hosting(HOST, other, policy=PROTEUS)
    offer(controller, 0.1 * CARRIES_QPS, 3.0)
    assert controller.replanning.loads_give_way(3.0)
    offer(controller, 2 * CARRIES_QPS, 3.0, family="b")
    assert not controller.replanning.loads_give_way(3.0)


def test_a_family_that_is_asked_for_and_hosted_nowhere_has_no_time_to_leave() -> None:
    controller = serving()
    assert controller.replanning.loads_give_way(1.0)
    offer(controller, 1.0, 1.0, family="b")
    assert not controller.replanning.loads_give_way(1.0)


def test_what_is_out_leaves_no_time_only_where_the_plan_in_force_counts_on_it() -> None:
    controller = serving()
    controller.device_lost("cpu1", ())
    controller.engine_failed("cpu0", VariantKey("a", "other"))
    assert controller.replanning.loads_give_way(1.0)
    controller.engine_failed("cpu0", HOST.key)
    assert not controller.replanning.loads_give_way(1.0)
    controller.engine_recovered("cpu0", HOST.key)
    assert controller.replanning.loads_give_way(1.0)
    controller.device_lost("cpu0", ())
    assert not controller.replanning.loads_give_way(1.0)
