"""Answers are kept for feedback: those with an id, for a while, and no more than fit."""

from typing import Any

import numpy as np
import pytest
from builders import hosted

from proteus_cli.errors import Overloaded
from proteus_cli.serving.requests.answers import answer_log
from proteus_cli.serving.requests.answers.answer_log import FORGOTTEN_AT_ONCE, LONGEST_ID, MAX_ROWS, AnswerLog
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, Result, Staged
from proteus_cli.serving.requests.query import Query

HOST = hosted("cpu0", "a", "a-s", latency_s={1: 0.01})


class World:
    """A log."""

    def __init__(self, keep_s: float = 60.0) -> None:
        self.now_s = 100.0
        self.log = AnswerLog(keep_s, lambda: self.now_s)

    def answer(self, request_id: str | None, scores: Any, rows: int = 1, *, staged: Staged | None = None) -> None:
        batch = AnsweredBatch(HOST, rows, (np.array(scores),), 0.0, staged=staged)
        self.end(request_id, Answered(batch, 0, rows, 0.0), rows)

    def end(self, request_id: str | None, result: Result, rows: int = 1) -> None:
        for observer in self.log.observers(Query("a", rows, (), id=request_id)):
            observer.ended(result)


def test_the_class_of_each_row_is_kept_once_the_answer_is_out() -> None:
    world = World()
    world.answer("x", [[0.1, 0.9, 0.0], [0.5, 0.2, 0.1]], rows=2)
    found = world.log.peek("a", "x")
    assert found is not None
    assert (found.key, found.rows, found.classes, found.accuracy) == (HOST.key, 2, (1, 0), HOST.accuracy)
    assert (found.is_plain, found.class_count) == (True, 3)
    world.log.take("a", "x")
    assert world.log.peek("a", "x") is None


def test_an_answer_by_stages_is_kept_with_what_it_promised() -> None:
    world = World()
    world.answer("x", [[0.1, 0.9]], staged=Staged(2, 0.3, 0.85))
    found = world.log.peek("a", "x")
    assert found is not None
    assert (found.is_plain, found.accuracy) == (False, 0.85)


@pytest.mark.parametrize("request_id", [None, "x" * (LONGEST_ID + 1)])
def test_requests_without_an_id_that_can_be_kept_cost_nothing(request_id: str | None) -> None:
    world = World()
    assert world.log.observers(Query("a", 1, (), id=request_id)) == ()
    assert world.log.observers(Query("a", MAX_ROWS + 1, (), id="x")) == ()


def test_a_request_that_was_not_served_has_no_answer() -> None:
    world = World()
    world.end("x", Overloaded("too many"))
    with pytest.raises(KeyError):
        world.log.peek("a", "x")


def test_answers_are_kept_for_a_while_and_of_one_id_the_last() -> None:
    world = World(keep_s=10.0)
    world.answer("x", [[0.9, 0.1]])
    world.answer("y", [[0.9, 0.1]])
    world.now_s = 105.0
    world.answer("x", [[0.1, 0.9]])
    world.now_s = 112.0
    found = world.log.peek("a", "x")
    assert found is not None
    assert (found.classes, len(world.log)) == ((1,), 1)
    world.now_s = 115.0
    with pytest.raises(KeyError):
        world.log.peek("a", "x")


def test_no_more_rows_are_kept_than_fit_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_log, "MAX_KEPT_ROWS", 6)
    world = World()
    for name in "abcbde":
        world.answer(name, [[0.9, 0.1]] * 2, rows=2)
    assert len(world.log) == 3
    for name in "ac":
        with pytest.raises(KeyError):
            world.log.peek("a", name)
    assert all(world.log.peek("a", name) for name in "bde")


def test_what_is_too_old_is_forgotten_a_part_at_a_time_and_counts_no_more() -> None:
    world = World(keep_s=10.0)
    for number in range(3 * FORGOTTEN_AT_ONCE):
        world.answer(f"{number}", [[0.9, 0.1]])
    world.now_s += 10.0
    for left in (2, 1, 0):
        with pytest.raises(KeyError):
            world.log.peek("a", f"{3 * FORGOTTEN_AT_ONCE - 1}")
        assert len(world.log) == left * FORGOTTEN_AT_ONCE


@pytest.mark.parametrize(
    ("scores", "classes"),
    [([[np.nan, 1.0]], (None,)), ([0.3], ()), ([[0.3]], ()), ([["a", "b"]], ()), ([[2, 5]], (1,))],
    ids=["NaN", "one axis", "one class", "texts", "whole numbers"],
)
def test_what_is_no_class_is_none(scores: Any, classes: tuple[int | None, ...]) -> None:
    world = World()
    world.answer("x", scores)
    found = world.log.peek("a", "x")
    assert found is not None
    assert found.classes == classes
