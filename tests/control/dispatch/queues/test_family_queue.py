"""Queues of their own: who a query is bound to when it arrives, and what a change of plan does to it."""

from collections import Counter

from builders import hosted, make_request
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.decision import Host
from proteus_cli.control.dispatch.queues.deadline_queue import DeadlineQueue
from proteus_cli.control.dispatch.queues.family_queue import PerDeviceQueue
from proteus_cli.control.dispatch.queues.host_class import HostClass
from proteus_cli.domain.request import USUAL_LEVEL


def host(device: str, weight: float = 1.0, variant: str = "a-s") -> Host:
    return hosted(device, "a", variant, latency_s={1: 0.01}, weight=weight)


def line_of(*hosts: Host, uniform: bool = False) -> PerDeviceQueue:
    queue = PerDeviceQueue(uniform=uniform)
    assert queue.rehost(hosts) == []
    return queue


def class_of(queue: PerDeviceQueue, host: Host) -> HostClass:
    return next(each for each in queue.classes if each.host is host)


def queue_of(queue: PerDeviceQueue, host: Host) -> DeadlineQueue:
    return queue.queues_of(class_of(queue, host))[USUAL_LEVEL]


def bound(queue: PerDeviceQueue, number: int) -> str:
    """The devices that so many requests are bound to, by their last letter."""
    return "".join(queue.push(make_request(n)).host.device[-1] for n in range(number))


def waits(queue: PerDeviceQueue) -> dict[str, list[int]]:
    """Ids in order, by device; nothing is taken."""
    found = {}
    for each in queue.hosts:
        requests = queue_of(queue, each).drain()
        found[each.device] = [request.id for request in requests]
        for request in requests:
            queue_of(queue, each).push(request)
    return found


def test_queries_are_bound_by_the_plans_shares() -> None:
    """Shares 2 : 1 : 1 of 4."""
    queue = line_of(host("cpu0", 20.0), host("cpu1", 10.0), host("cpu2", 10.0))
    assert Counter(bound(queue, 8)) == {"0": 4, "1": 2, "2": 2}
    assert [each.quota for each in queue.classes] == [4, 2, 2]
    assert len(queue) == 8


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 40))
def test_shares_are_exact_after_any_number_of_queries(weights: list[int], number: int) -> None:
    """Nobody is a whole query ahead of its share, and after as many as the weights add up to it is met exactly."""
    queue = line_of(*(host(f"cpu{n}", float(weight)) for n, weight in enumerate(weights)))
    counts = Counter(bound(queue, number))
    for n, weight in enumerate(weights):
        assert counts[str(n)] < number * weight / sum(weights) + 1
    whole = line_of(*(host(f"cpu{n}", float(weight)) for n, weight in enumerate(weights)))
    assert Counter(bound(whole, sum(weights))) == {str(n): weight for n, weight in enumerate(weights)}


def test_uniform_means_all_alike_whatever_the_plan_says() -> None:
    queue = line_of(host("cpu0", 20.0), host("cpu1", 10.0), host("cpu2", 0.0), host("cpu3"), uniform=True)
    assert bound(queue, 8) == "01230123"


def test_rows_count_for_the_shares() -> None:
    """Equal shares: after 3 rows for cpu0 the next three single ones are cpu1's."""
    queue = line_of(host("cpu0"), host("cpu1"))
    queue.push(make_request(9, rows=3))
    assert bound(queue, 3) == "111"
    assert [each.quota for each in queue.classes] == [3, 3]


def test_each_takes_from_its_own_queue_the_most_urgent_first() -> None:
    first, second = host("cpu0"), host("cpu1")
    queue = line_of(first, second)
    for number, slo_s in enumerate((0.3, 0.1, 0.2, 0.2)):  # 0 and 2 are cpu0's
        queue.push(make_request(number, slo_s=slo_s))
    taken, rows = queue.take(class_of(queue, first), 1)
    assert ([request.id for request in taken], rows) == ([2], 1)
    assert [request.id for request in queue.drop(class_of(queue, second), 1)] == [1]
    assert waits(queue) == {"cpu0": [0], "cpu1": [3]}
    assert [request.id for request in queue.drain()] == [0, 3]
    assert len(queue) == 0


def test_what_waits_for_a_device_that_goes_on_with_the_family_stays_there() -> None:
    """Whatever the variant, and whatever its share in the new plan."""
    queue = line_of(host("cpu0"), host("cpu1"))
    bound(queue, 6)
    before = waits(queue)
    assert queue.rehost([host("cpu1", 1.0), host("cpu0", 9.0, "a-l")]) == []
    assert waits(queue) == {"cpu1": before["cpu1"], "cpu0": before["cpu0"]}


def test_what_waits_for_a_device_that_leaves_is_bound_anew_by_the_new_shares() -> None:
    """cpu0 leaves with 0, 2, 4. The new shares are 2 : 1 for cpu2 and cpu1, which keeps its own."""
    queue = line_of(host("cpu0"), host("cpu1"))
    bound(queue, 6)
    assert queue.rehost([host("cpu1", 1.0), host("cpu2", 2.0)]) == []
    found = waits(queue)
    assert sorted(found["cpu1"] + found["cpu2"]) == [0, 1, 2, 3, 4, 5]
    assert set(found["cpu1"]) >= {1, 3, 5}
    assert len(found["cpu2"]) == 2


def test_without_a_device_nothing_can_wait() -> None:
    queue = line_of(host("cpu0"), host("cpu1"))
    bound(queue, 5)
    assert sorted(request.id for request in queue.rehost([])) == [0, 1, 2, 3, 4]
    assert (queue.hosts, len(queue)) == ((), 0)


def test_two_variants_on_one_device_are_two_queues() -> None:
    queue = line_of(host("cpu0"), host("cpu0", variant="a-l"))
    bound(queue, 4)
    assert [each.quota for each in queue.classes] == [2, 2]
