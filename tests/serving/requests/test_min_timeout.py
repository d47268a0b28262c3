"""Who asks for an answer sooner than any variant gives one is told what time it would need."""

import asyncio
import json
from typing import Any, NoReturn

import numpy as np
import pytest
from builders import make_measured, make_profile
from one_device import FLOAT, SLOW_S, World, run
from tritonclient.grpc import service_pb2

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Bounds, Outcome
from proteus_cli.errors import BoundsUnmet, DeadlineExceeded, Overloaded, RequestError
from proteus_cli.serving.grpc.codec import GrpcCodec
from proteus_cli.serving.oip.codes import GRPC_STATUS, HTTP_STATUS, GrpcStatus
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import Query, RequestOptions
from proteus_cli.serving.rest.codec.codec import RestCodec

X = np.array([[1, 2]], FLOAT)


def unread() -> NoReturn:
    pytest.fail("the tensors of a refused request were read")


NEEDS = "even an idle device needs 10.21 ms"
"""A row takes 10 ms, and 2 % of the time are for the answer."""


async def ended(world: World, timeout_s: float) -> object:
    world.submit(1, 2, options=RequestOptions(timeout_s=timeout_s))
    await asyncio.sleep(0.001)
    while world.executor.held:
        world.executor.release()
    await asyncio.sleep(0.1)
    return world.results[-1]


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (1, RequestOptions(timeout_s=0.0001), f"no variant of `f` has an answer within 0.1 ms: {NEEDS}"),
        (2, RequestOptions(timeout_s=0.0102), f"no variant of `f` has an answer to 2 rows within 10.2 ms: {NEEDS}"),
        (
            1,
            RequestOptions(timeout_s=0.0102, min_accuracy=0.9, bounds=Bounds(min_confidence=0.8)),
            f"no variant of `f` has an answer with an accuracy of 0.9 or more within 10.2 ms: {NEEDS}",
        ),
    ],
)
def test_a_time_in_which_nothing_answers_is_refused_at_once_with_the_least_that_would_do(
    rows: int, options: RequestOptions, told: str
) -> None:
    async def too_short(world: World) -> None:
        with pytest.raises(BoundsUnmet) as refused:
            world.submit(*[1] * (2 * rows), options=options)
        assert refused.value.message == told
        assert world.counted == {Outcome.REJECTED: 1}
        assert world.plane.controller.demand.rate_qps("f", 0.2, asyncio.get_running_loop().time() + 0.2) == 0.0

    run(too_short, SLOW_S)


FAST = {"cpu0": make_profile("cpu0", make_measured("f", "fast", 0.8, {1: 0.001}))}


def over_http(world: World, timeout_us: int = 5000, rows: int = 1) -> Query:
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [1, 2] * rows}],
        "parameters": {"timeout": timeout_us},
    }
    codec = RestCodec("f", world.plane.families.by_name["f"].signature, 8)
    query, _ = codec.decode(json.dumps(body).encode(), None)
    return query


def over_grpc(world: World, timeout_us: int | None = 5000, rows: int = 1, left_s: float | None = None) -> Query:
    """A call with a parameter `timeout`, and so many seconds left of its own deadline."""
    request = service_pb2.ModelInferRequest(model_name="f")
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    request.raw_input_contents.append(X.tobytes() * rows)
    if timeout_us is not None:
        request.parameters["timeout"].int64_param = timeout_us
    query, _ = GrpcCodec(world.plane.families).decode(request.SerializeToString(), left_s)
    return query


@pytest.mark.parametrize("front_end", [over_http, over_grpc])
def test_both_protocols_refuse_it_alike(front_end: Any) -> None:
    async def refused(world: World) -> None:
        with pytest.raises(BoundsUnmet, match=NEEDS) as too_short:
            world.plane.admission.submit(front_end(world), lambda: (X.tobytes(),), world.results.append)
        error: type[RequestError] = type(too_short.value)
        assert (HTTP_STATUS[error], GRPC_STATUS[error]) == (400, GrpcStatus.INVALID_ARGUMENT)

    run(refused, SLOW_S)


def test_a_deadline_that_a_call_has_used_up_is_no_bad_input() -> None:
    async def refused(world: World) -> None:
        with pytest.raises(DeadlineExceeded) as used_up:
            world.plane.admission.submit(
                over_grpc(world, 60_000_000, left_s=0.001), lambda: (X.tobytes(),), world.results.append
            )
        assert used_up.value.message == f"no variant of `f` has an answer within 1 ms: {NEEDS}"
        assert not used_up.value.is_late
        assert GRPC_STATUS[DeadlineExceeded] is GrpcStatus.DEADLINE_EXCEEDED
        assert world.counted == {Outcome.DROPPED: 1}
        assert world.plane.controller.demand.rate_qps("f", 0.2, asyncio.get_running_loop().time() + 0.2) == 0.0

    run(refused, SLOW_S)


def test_a_timeout_that_can_never_be_met_stays_bad_input_however_long_its_call_has() -> None:
    async def refused(world: World) -> None:
        with pytest.raises(BoundsUnmet, match=NEEDS):
            world.plane.admission.submit(
                over_grpc(world, 5000, left_s=60.0), lambda: (X.tobytes(),), world.results.append
            )
        assert world.counted == {Outcome.REJECTED: 1}

    run(refused, SLOW_S)


@pytest.mark.parametrize("front_end", [over_http, over_grpc])
@pytest.mark.parametrize(("rows", "timeout_us", "least"), [(1, 10_000, "11.23 ms"), (8, 60_000, "82.66 ms")])
def test_what_only_another_plan_could_answer_is_told_at_once_that_and_when_to_try_again(
    front_end: Any, rows: int, timeout_us: int, least: str
) -> None:
    """The device is busy. A variant that is not hosted would take 1 ms for a row, and 8 ms for eight."""

    async def refused(world: World) -> None:
        world.plane.controller.placeable.use(FAST, {VariantKey("f", "fast")})
        world.submit(1, 2)
        await asyncio.sleep(0)
        asked = world.plane.controller.demand.counts_of("f").total
        with pytest.raises(Overloaded, match=f"needs {least}; another plan could host a faster one") as beyond:
            world.plane.admission.submit(front_end(world, timeout_us, rows), unread, world.results.append)
        assert beyond.value.retry_after_s == 1.0
        assert (HTTP_STATUS[Overloaded], GRPC_STATUS[Overloaded]) == (429, GrpcStatus.RESOURCE_EXHAUSTED)
        assert world.counted == {Outcome.REJECTED: 1}
        assert world.plane.controller.demand.counts_of("f").total == asked + rows
        world.executor.release()

    run(refused, 0.001, row_s=SLOW_S)


@pytest.mark.parametrize("front_end", [over_http, over_grpc])
@pytest.mark.parametrize(("rows", "timeout_us", "least"), [(1, 10_000, "11.23 ms"), (8, 60_000, "82.66 ms")])
def test_what_only_another_plan_could_answer_is_refused_for_good_where_no_other_follows(
    front_end: Any, rows: int, timeout_us: int, least: str
) -> None:
    async def refused(world: World) -> None:
        world.plane.controller.placeable.use(FAST, {VariantKey("f", "fast")})
        with pytest.raises(BoundsUnmet, match=f"needs {least}; this server makes no other plan by itself") as beyond:
            world.plane.admission.submit(front_end(world, timeout_us, rows), unread, world.results.append)
        error: type[RequestError] = type(beyond.value)
        assert (HTTP_STATUS[error], GRPC_STATUS[error]) == (400, GrpcStatus.INVALID_ARGUMENT)
        assert world.counted == {Outcome.REJECTED: 1}
        assert world.plane.controller.demand.counts_of("f").total == rows  # for whoever makes another plan by hand

    run(refused, 0.001, row_s=SLOW_S, replan="off")


def test_that_time_will_do() -> None:
    async def enough(world: World) -> None:
        assert isinstance(await ended(world, 0.01021), Answered)

    run(enough, SLOW_S)


async def _behind(world: World) -> object:
    """What becomes of a request that waits until its deadline, as a batch hangs."""
    world.submit(1, 2, options=RequestOptions(timeout_s=0.05))
    while not world.results:
        await asyncio.sleep(0.001)
    return world.results[0]
