import pytest
from builders import make_request
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.dispatch.deadline_queue import DeadlineQueue
from proteus_cli.domain.request import Request

LOADS = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.integers(1, 5)), max_size=20)


def filled(load: list[tuple[float, int]]) -> DeadlineQueue:
    queue = DeadlineQueue()
    for number, (slo_s, rows) in enumerate(load):
        queue.push(make_request(number, slo_s=slo_s, rows=rows))
    return queue


def taken_ids(queue: DeadlineQueue, at_most_rows: int) -> tuple[list[int], int]:
    taken, rows = queue.take(at_most_rows)
    return [request.id for request in taken], rows


def test_the_most_urgent_comes_first_and_equals_in_order_of_arrival() -> None:
    queue = filled([(0.3, 1), (0.1, 1), (0.2, 1), (0.1, 1)])
    assert [each.id for each in queue.pop(4)] == [1, 3, 2, 0]


def test_the_first_that_is_due_in_time_is_found_and_a_batch_is_cut_out_from_there() -> None:
    queue = filled([(0.3, 1), (0.1, 1), (0.2, 1), (0.3, 2), (0.3, 1)])
    place = queue.place_due(0.15)
    assert (place, queue.at(place).id, queue.last().id) == (1, 2, 4)
    assert queue.has_rows(5, place)
    assert not queue.has_rows(6, place)
    taken, rows = queue.take(3, place)
    assert ([request.id for request in taken], rows) == ([2, 0], 2)
    assert [request.id for request in queue] == [1, 3, 4]


def test_an_empty_queue_has_no_head_and_nothing_to_take() -> None:
    queue = DeadlineQueue()
    assert (len(queue), queue.rows, list(queue)) == (0, 0, [])
    with pytest.raises(IndexError):
        queue.head()
    with pytest.raises(IndexError):
        queue.last()


def test_the_head_stays_where_it_is() -> None:
    queue = filled([(0.2, 3), (0.1, 2)])
    assert (queue.head().id, len(queue), queue.rows) == (1, 2, 5)


def test_take_stops_at_the_first_that_does_not_fit() -> None:
    """2 + 1 rows fit 4; the next brings 2; the 1 behind it would fit but must not overtake."""
    queue = filled([(0.1, 2), (0.2, 1), (0.3, 2), (0.3, 1)])
    assert taken_ids(queue, 4) == ([0, 1], 3)
    assert taken_ids(queue, 3) == ([2, 3], 3)


def test_the_first_is_taken_however_large_it_is() -> None:
    queue = filled([(0.1, 9), (0.2, 1)])
    assert taken_ids(queue, 4) == ([0], 9)
    assert queue.rows == 1


@given(LOADS, st.lists(st.integers(1, 8)))
def test_everything_is_taken_once_in_order_and_rows_add_up(load: list[tuple[float, int]], bites: list[int]) -> None:
    queue, taken = filled(load), list[Request]()
    for bite in [*bites, *[8] * len(load)]:
        if len(queue) > 0:
            batch, rows = queue.take(bite)
            assert rows == sum(request.rows for request in batch)
            assert len(batch) == 1 or rows <= bite
            taken += batch
        assert (
            queue.rows
            == sum(request.rows for request in queue)
            == sum(rows for _, rows in load) - sum(r.rows for r in taken)
        )
    assert [(r.deadline_s, r.id) for r in taken] == sorted((slo_s, number) for number, (slo_s, _) in enumerate(load))
