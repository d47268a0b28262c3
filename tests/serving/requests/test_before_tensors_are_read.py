"""A request is let in or refused before its tensors are read."""

import asyncio
import contextlib
from typing import NoReturn

import numpy as np
import pytest
from builders import requests_waiting
from one_device import FLOAT, SLO_S, World, run

from proteus_cli.buffers import Buffer
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BadRequest, NotAccurateEnough, Overloaded
from proteus_cli.serving.requests.query import Query, RequestOptions

ONE_ROW = Query("f", 1, ((0, False),))


def unread() -> NoReturn:
    pytest.fail("the tensors of a refused request were read")


def invalid() -> NoReturn:
    raise BadRequest("these are no tensors")


def bug() -> NoReturn:
    raise RuntimeError("a bug of ours")


def not_finite() -> tuple[Buffer, ...]:
    return (np.array([np.nan, 1], FLOAT).tobytes(),)


def fill(world: World) -> None:
    """Ask until no more is let in."""
    with contextlib.suppress(Overloaded):
        while True:
            world.submit(1, 2)


def demand(world: World) -> int:
    """Rows asked so far."""
    return world.plane.controller.demand.counts_of("f").total


async def end(world: World) -> None:
    """Have all that waits end by its deadline."""
    await asyncio.sleep(SLO_S + 0.05)
    while world.executor.held:
        world.executor.release()
        await asyncio.sleep(0.01)


def test_the_tensors_of_a_refused_request_are_not_read() -> None:
    async def refused(world: World) -> None:
        fill(world)
        asked, rejected = demand(world), world.counted[Outcome.REJECTED]
        with pytest.raises(Overloaded):
            world.plane.admission.submit(ONE_ROW, unread, world.results.append)
        with pytest.raises(NotAccurateEnough):
            world.plane.admission.submit(
                Query("f", 1, ((0, False),), RequestOptions(min_accuracy=0.99)), unread, world.results.append
            )
        assert world.counted[Outcome.REJECTED] == rejected + 2
        assert demand(world) == asked + 1  # no plan is made for minima of single requests
        await end(world)

    run(refused)


def test_more_rows_than_fit_the_time_of_a_request_are_refused_at_once_with_the_number_that_fits() -> None:
    """4 rows take 90 ms, 5 take 110, and the SLO is 100 ms. It is neither demand nor overload."""

    async def refused(world: World) -> None:
        eight = Query("f", 8, ((0, False),))
        with pytest.raises(BadRequest, match="variants of `f` answer at most 4 rows of a request within 100 ms; got 8"):
            world.plane.admission.submit(eight, unread, world.results.append)
        assert (demand(world), world.counted) == (0, {})
        patient = Query("f", 8, ((0, False),), RequestOptions(timeout_s=1.0))
        world.plane.admission.probe(patient, world.plane.clock())

    run(refused, row_s=0.02)


@pytest.mark.parametrize(("tensors", "error"), [(invalid, BadRequest), (not_finite, BadRequest), (bug, RuntimeError)])
def test_an_admitted_request_with_wrong_tensors_gives_its_place_back(tensors: object, error: type[Exception]) -> None:
    """It leaves no trace: no outcome, no demand, and its place in the queue goes to the next request."""

    async def wrong(world: World) -> None:
        world.submit(1, 2)
        fill(world)
        waiting, counted = requests_waiting(world.plane.controller), world.counted
        world.plane.admission.cancel(world.submitted[1])
        counted[Outcome.DROPPED] = 1
        asked = demand(world)
        for _ in range(3):
            with pytest.raises(error):
                world.plane.admission.submit(ONE_ROW, tensors, world.results.append)  # type: ignore[arg-type]
        assert (demand(world), world.counted) == (asked, counted)
        assert requests_waiting(world.plane.controller) == waiting - 1
        assert world.plane.results.in_flight_count == waiting - 1
        world.submit(1, 2)
        with pytest.raises(Overloaded):
            world.submit(1, 2)
        await end(world)

    run(wrong, refuses_non_finite=True)


# --- refused alike


def test_what_is_refused_in_one_turn_of_the_loop_counts_each_time() -> None:
    async def refused(world: World) -> None:
        fill(world)
        asked, rejected = demand(world), world.counted[Outcome.REJECTED]
        for _ in range(10):
            with pytest.raises(Overloaded):
                world.plane.admission.submit(ONE_ROW, unread, world.results.append)
        assert demand(world) == asked + 10
        assert world.counted[Outcome.REJECTED] == rejected + 10
        await end(world)

    run(refused)


def test_a_request_that_asks_for_more_than_others_is_not_refused_like_them() -> None:
    async def refused(world: World) -> None:
        fill(world)
        world.plane.results.dropped(world.plane.controller.dispatch.forget_all())
        patient = Query("f", 1, ((0, False),), RequestOptions(timeout_s=10 * SLO_S))
        row = np.array([1, 2], FLOAT).tobytes()
        assert world.plane.admission.submit(patient, lambda: (row,), world.results.append) is not None
        await end(world)

    run(refused)
