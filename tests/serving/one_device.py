"""A data plane with one device, for tests of it and of what stands in front of it."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import numpy as np
from builders import make_measured, make_placement, make_plan, make_profile
from virtual_loop import VirtualLoop

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import live_policy_named, with_replanning
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.requests.admission import RequestWatch
from proteus_cli.serving.requests.data_plane import DataPlaneOptions, make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, InFlightRequest, Result
from proteus_cli.serving.requests.query import Query, RequestOptions
from proteus_cli.serving.requests.samples.writer import SampleWriter

FLOAT, LONG = np.dtype(np.float32), np.dtype(np.int64)
SLO_S = 0.1
AT_ONCE_S, SLOW_S = 10e-6, 0.01


def twice(dtype: "np.dtype[Any]") -> Signature:
    return Signature((TensorSpec("x", dtype, (2,)),), (TensorSpec("y", dtype, (2,)),))


class HeldExecutor:
    """Doubles its inputs: at once where it is asked to run on the loop, else when it is told to."""

    runs_inline, can_give_way = True, False
    pid = None

    def __init__(self, dtype: "np.dtype[Any]") -> None:
        self.dtype = dtype
        self.held: list[tuple[Batch, BatchCallback]] = []
        self.runs: list[int] = []

    async def send_ahead(self, model: object) -> None:
        pass

    async def load(self, key: VariantKey, model: object, warm_up_rows: int, *, gives_way: bool = False) -> Signature:
        return twice(self.dtype)

    def unload(self, key: VariantKey) -> None:
        pass

    def run(self, batch: Batch) -> BatchResult:
        self.runs.append(batch.rows)
        content = b"".join(bytes(inputs[0]) for _, inputs in batch.parts)
        rows = np.frombuffer(content, self.dtype).reshape(batch.rows, 2)
        with np.errstate(over="ignore"):
            return BatchResult((rows * 2,), 0.001)

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self.held.append((batch, done))

    def release(self, result: BatchResult | Exception | None = None) -> None:
        batch, done = self.held.pop(0)
        done(self.run(batch) if result is None else result)

    def close(self) -> None:
        pass

    def abandon(self) -> None:
        self.held.clear()


class World:
    """A plane with one device, whose batches take ``latency_s`` by its profile, and ``row_s`` more for each row.

    It hosts ``v``, and could host what is ``cold`` as well. One that does not ``replan`` keeps its plan.
    """

    def __init__(
        self,
        latency_s: float,
        *,
        device: str = "cpu0",
        refuses_non_finite: bool = False,
        is_emulated: bool = False,
        max_timeout_s: float = inf,
        row_s: float = 0.0,
        dtype: "np.dtype[Any]" = FLOAT,
        sample_writer: SampleWriter | None = None,
        keep_answers_s: float = 0.0,
        cold: tuple[str, ...] = (),
        watch: RequestWatch | None = None,
        replan: str = "auto",
    ) -> None:
        times_s = {rows: latency_s + row_s * rows for rows in (1, 2, 4, 8)}
        profile = make_profile(device, *(make_measured("f", variant, 0.9, times_s) for variant in ("v", *cold)))
        self.plan = make_plan(make_placement(device, "f", "v", max_batch=8, rate_qps=10, capacity_qps=8 / latency_s))
        self.profiles = {device: profile}
        clock = asyncio.get_running_loop().time
        controller = Controller({"f": SLO_S}, {device: 1}, with_replanning(live_policy_named("proteus"), replan))
        self.executor = HeldExecutor(dtype)
        models: Any = {("f", variant): None for variant in ("v", *cold)}
        variants = {"v": 0.9, "never": 0.5}
        served = ServedFamily("f", twice(dtype), SLO_S, max_rows=8, best_accuracy=0.9, variants=variants)
        self.plane = make_data_plane(
            controller, [served], [device],
            lambda _device, _on_lost: self.executor, clock, models=models, profiles=self.profiles,
            sample_writer=sample_writer, watch=watch,
            options=DataPlaneOptions(
                refuses_non_finite, max_timeout_s, is_emulated=is_emulated, keep_answers_s=keep_answers_s
            ),
        )  # fmt: skip
        self.fleet, self.lifecycle = self.plane.fleet, self.plane.lifecycle
        self.results: list[Result] = []
        self.submitted: list[InFlightRequest] = []

    async def start(self) -> None:
        await self.fleet.deploy(self.plan)
        self.lifecycle.on(LifecycleEvent.WARMED_UP)

    def submit(self, *values: float, options: RequestOptions | None = None, client_id: str | None = None) -> Any:
        content = np.array(values, FLOAT).tobytes()
        query = Query("f", len(values) // 2, ((0, False),), options or RequestOptions(), client_id)
        self.submitted.append(self.plane.admission.submit(query, lambda: (content,), self.results.append))
        return self.submitted[-1]

    @property
    def counted(self) -> dict[Outcome, int]:
        counts = self.plane.counts.by_family["f"]
        return {outcome: counts.of_outcome(outcome) for outcome in Outcome if counts.of_outcome(outcome)}


def run(test: Callable[[World], Awaitable[None]], latency_s: float = SLOW_S, **options: Any) -> None:
    async def in_loop() -> None:
        world = World(latency_s, **options)
        await world.start()
        await test(world)
        assert world.plane.results.in_flight_count == 0
        assert sum(world.counted.values()) >= len(world.results)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(in_loop())


def outputs(result: Result) -> list[float]:
    assert isinstance(result, Answered), result
    found: list[float] = result.outputs[0].ravel().tolist()
    return found
