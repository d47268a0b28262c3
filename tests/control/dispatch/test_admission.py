import pytest
from builders import controller_hosting, hosted, launched, make_request, requests_waiting

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.decision import Admitted, Drop, Launch, TooManyRows
from proteus_cli.control.dispatch.dispatch import admitted_rows, retry_after_s
from proteus_cli.control.policies import Policy


def test_all_that_is_timely_is_let_in_where_nothing_is_held_back() -> None:
    assert admitted_rows(5.0, 0, 1.0) == 5


@pytest.mark.parametrize("timely_rows", [0.0, -100.0])
def test_nothing_fits_no_capacity_or_no_time(timely_rows: float) -> None:
    assert admitted_rows(timely_rows, 8, 0.9) <= 0


@pytest.mark.parametrize(
    ("batch_rows", "rows"), [(8, 90), (40, 90), (45, 90), (48, 96), (50, 100), (60, 100), (1000, 100)]
)
def test_what_is_held_back_is_no_part_of_the_first_two_batches(batch_rows: int, rows: float) -> None:
    """Of 100 timely rows, 10 are held back, unless two batches are more than 90."""
    assert admitted_rows(100.0, batch_rows, 0.9) == rows


@pytest.mark.parametrize(("dispatch_ahead_s", "admitted"), [(0.0, 100), (0.002, 90)])
def test_where_the_driver_needs_time_for_hand_overs_a_part_is_held_back(dispatch_ahead_s: float, admitted: int) -> None:
    """1,000 qps and 100 ms; batches of 4."""
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
    host = hosted(latency_s={1: 0.002, 4: 0.004}, capacity_qps=1000.0)
    controller = controller_hosting(
        host, policy=policy, families=("a",), slots={"cpu0": 1}, dispatch_ahead_s=dispatch_ahead_s
    )
    answers = [controller.offer(make_request(number), 0.0) for number in range(110)]
    assert sum(isinstance(answer, Admitted) for answer in answers) == admitted


@pytest.mark.parametrize("at_s", [0.0, 1000.0])
def test_the_time_of_the_answer_is_a_part_of_each_request_s_time(at_s: float) -> None:
    """1,000 qps in 92 of 100 ms, whenever these begin."""
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.08), None)
    host = hosted(latency_s={1: 0.002, 4: 0.004}, capacity_qps=1000.0)
    controller = controller_hosting(host, policy=policy, families=("a",), slots={"cpu0": 1})
    answers = [controller.offer(make_request(number, at_s=at_s), at_s) for number in range(110)]
    assert sum(isinstance(answer, Admitted) for answer in answers) in {91, 92}, "by rounding"


def test_asking_again_helps_after_what_is_ahead_is_answered() -> None:
    """250 rows at 100 qps take 2.5 s: 3 whole seconds; never less than 1."""
    assert retry_after_s(250, 100.0) == 3.0
    assert retry_after_s(1, 100.0) == 1.0
    assert retry_after_s(0, 100.0) == 1.0
    assert retry_after_s(5, 0.0) == 1.0


@pytest.mark.parametrize(("took_s", "admitted"), [(0.036, 100), (0.040, 100), (0.046, 86), (0.080, 50)])
def test_capacity_is_divided_by_how_much_slower_than_the_profiled_mean_batches_are(
    took_s: float, admitted: int
) -> None:
    """1,000 qps in batches of 40 ms in the mean and 44 ms at their p95, whatever these take."""
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
    times_s = {1: 0.044, 40: 0.044}
    host = hosted(latency_s=times_s, mean_latency_s={1: 0.040, 40: 0.040}, max_batch=40, capacity_qps=1000.0)
    controller = controller_hosting(host, policy=policy, families=("a",), slots={"cpu0": 1})
    for number in range(200):
        controller.offer(make_request(number), 0.0)
        controller.finished(launched(controller, "cpu0", 0.0), took_s)
    answers = [controller.offer(make_request(200 + number), 0.0) for number in range(110)]
    assert sum(isinstance(answer, Admitted) for answer in answers) == admitted


def test_a_deadline_is_met_at_the_p95_of_a_device_as_slow_as_measured() -> None:
    """Batches of 40 ms in the mean take 80 ms: 44 ms at the p95 are now 88 ms, and what is due in 87 ms is given up."""
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
    host = hosted(latency_s={1: 0.044}, mean_latency_s={1: 0.040}, max_batch=1)
    controller = controller_hosting(host, policy=policy, families=("a",), slots={"cpu0": 1})
    for number in range(200):
        controller.offer(make_request(number), 0.0)
        controller.finished(launched(controller, "cpu0", 0.0), 0.080)
    controller.offer(make_request(200, slo_s=0.087), 0.0)
    assert isinstance(controller.decide("cpu0", 0.0), Drop)
    controller.offer(make_request(201, slo_s=0.089), 0.0)
    assert isinstance(controller.decide("cpu0", 0.0), Launch)


@pytest.mark.parametrize(
    ("slo_s", "answer"), [(0.100, TooManyRows(10, 32 * 0.0097 / 0.98)), (0.320, Admitted(("cpu0",)))]
)
def test_a_request_whose_rows_alone_take_longer_than_its_time_is_refused_and_no_demand(
    slo_s: float, answer: object
) -> None:
    """A row takes 9.7 ms on the faster host and 19.4 ms on the other; 2 % of the time is for the answer."""
    policy = Policy("test", "all", GreedyBatcher(), None)
    fast, slow = (
        hosted(
            device, variant=device, latency_s={1: row_s, 32: 32 * row_s}, max_batch=4, weight=float(device == "cpu0")
        )
        for device, row_s in (("cpu0", 0.0097), ("cpu1", 0.0194))
    )
    controller = controller_hosting(fast, slow, policy=policy, families=("a",))
    assert controller.offer(make_request(0, slo_s=slo_s, rows=32), 0.0) == answer
    assert controller.demand.rate_qps("a", 0.2, 0.25) == (0.0 if isinstance(answer, TooManyRows) else 160.0)
    assert requests_waiting(controller) == isinstance(answer, Admitted)


def test_two_rows_are_refused_where_one_is_all_that_fits() -> None:
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
    controller = controller_hosting(hosted(latency_s={1: 0.060, 2: 0.120}), policy=policy, families=("a",))
    assert controller.offer(make_request(0, rows=2), 0.0) == TooManyRows(1, 0.120)
    assert isinstance(controller.offer(make_request(1), 0.0), Admitted)


def test_a_deadline_that_not_even_one_row_can_meet_is_no_matter_of_rows() -> None:
    policy = Policy("test", "all", GreedyBatcher(), None)
    controller = controller_hosting(hosted(latency_s={1: 0.2, 32: 0.4}), policy=policy, families=("a",))
    assert isinstance(controller.offer(make_request(0, rows=32), 0.0), Admitted)
    assert isinstance(controller.decide("cpu0", 0.0), Drop)


def test_the_most_rows_of_a_request_are_those_that_the_fastest_host_answers_in_time() -> None:
    policy = Policy("test", "all", GreedyBatcher(answer_frac=0.0), None)
    controller = controller_hosting(
        hosted(latency_s={1: 0.010, 32: 0.320}), policy=policy, families=("a", "b"), slots={"cpu0": 1}
    )
    assert controller.dispatch.max_rows(controller.families["a"].hosts, 0.101, at_most=32) == 10
    assert controller.dispatch.max_rows(controller.families["a"].hosts, 1.0, at_most=32) == 32
    assert controller.dispatch.max_rows(controller.families["a"].hosts, 0.001, at_most=32) == 1
    assert controller.dispatch.max_rows(controller.families["b"].hosts, 0.101, at_most=32) == 32
