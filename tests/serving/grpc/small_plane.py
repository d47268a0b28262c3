"""A plane of one family that doubles its inputs, for tests of what stands in front of it."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from builders import hosted

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.buffers import Buffer
from proteus_cli.control.decision import HostedVariant
from proteus_cli.errors import EngineFailed, NotReady, RequestError, UnknownModel
from proteus_cli.serving.lifecycle import Lifecycle, LifecycleEvent, ServerState
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, Result
from proteus_cli.serving.requests.query import Query, ReadInputs

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)
TWO = Signature(
    (TensorSpec("x", FLOAT, (2,)), TensorSpec("k", LONG, (1,))),
    (TensorSpec("y", FLOAT, (2,)), TensorSpec("m", LONG, (1,))),
)
HOSTED = hosted("cpu0", "two", "two-s", latency_s={1: 0.001}, max_batch=8, accuracy=0.75)


class SmallPlane:
    """Answers each request alone, in the next turn of the loop; fails those whose first number is not one."""

    def __init__(self) -> None:
        self.refusals: Counter[str] = Counter()
        self.by_name = {"two": ServedFamily("two", TWO, 0.1, 8, 0.75)}
        self.lifecycle = Lifecycle()
        self.lifecycle.on(LifecycleEvent.WARMED_UP)
        self.controller = self
        self.cancelled: list[Any] = []
        self.queries: list[Query] = []

    def clock(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def now_s(self) -> float:
        return self.clock()

    def hosting(self, family: str) -> list[HostedVariant]:
        return [HOSTED] if family == "two" else []

    def why_unavailable(self, family: str, _version: object = None) -> str | None:
        return None if family == "two" and self.lifecycle.state is ServerState.READY else "it is away"

    def require(self, name: str) -> ServedFamily:
        if name not in self.by_name:
            raise UnknownModel(f"no model `{name}`")
        return self.by_name[name]

    def count_refusal(self, error: RequestError) -> None:
        self.refusals[type(error).__name__] += 1

    def deadline_s(self, _query: Query, arrival_s: float) -> float:
        return arrival_s + 60.0

    def submit(
        self, query: Query, read_inputs: ReadInputs, done: Callable[[Result], None], _arrival_s: float | None = None
    ) -> asyncio.Handle:
        if query.rows > 8:
            raise NotReady("too many")
        self.queries.append(query)
        return asyncio.get_running_loop().call_soon(self._answer, query, read_inputs(), done)

    def cancel(self, in_flight: asyncio.Handle) -> None:
        in_flight.cancel()
        self.cancelled.append(in_flight)

    def _answer(self, query: Query, inputs: tuple[Buffer, ...], done: Callable[[Result], None]) -> None:
        x = np.frombuffer(inputs[0], FLOAT).reshape(query.rows, 2)
        k = np.frombuffer(inputs[1], LONG).reshape(query.rows, 1)
        if np.isnan(x[0, 0]):
            done(EngineFailed("it failed"))
        else:
            with np.errstate(over="ignore"):
                done(Answered(AnsweredBatch(HOSTED, query.rows, (x * 2, k * 2), 0.25), 0, query.rows, 0.001))
