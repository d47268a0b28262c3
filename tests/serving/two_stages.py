"""Two devices that host the stages of a cascade, for tests of the data plane in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from builders import make_cascade, make_measured, make_placement, make_plan, make_profile, requests_waiting
from one_device import FLOAT, SLO_S, HeldExecutor, twice
from virtual_loop import VirtualLoop

from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import live_policy_named
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.requests.data_plane import make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, Result, Staged
from proteus_cli.serving.requests.query import DEFAULT_OPTIONS, Query, RequestOptions

if TYPE_CHECKING:
    from proteus_cli.backends.base import OutputArrays

SURE, UNSURE = (5.0, 9.0), (5.0, 5.1)
"""Rows whose scores, twice as much, are 8 and 0.2 apart; the threshold is 0.5."""
CASCADE = make_cascade("f", "s", "l", rate_qps=10.0)
FIRST = make_placement("cpu0", "f", "s", max_batch=8, rate_qps=10.0, capacity_qps=800.0)


class Scaling(HeldExecutor):
    """Scores are so many times those of the first variant; below 0, it gives the other class.

    ``notes`` are what a multi-exit model says of each batch.
    """

    def __init__(self, factor: float) -> None:
        super().__init__(FLOAT)
        self._factor = np.float32(factor)
        self.notes: OutputArrays = ()
        self.inputs: list[list[float]] = []

    def run(self, batch: Batch) -> BatchResult:
        self.inputs.append(np.frombuffer(b"".join(bytes(i[0]) for _, i in batch.parts), FLOAT).tolist())
        (scores,) = super().run(batch).outputs
        return BatchResult((scores * self._factor,), 0.001, notes=self.notes)


def plan_of(*more: Placement, cascades: tuple[Any, ...] = (CASCADE,)) -> Plan:
    return make_plan(FIRST, *more, devices=("cpu0", "cpu1"), demand_qps={"f": 10.0}, cascades=cascades)


SECOND = Placement("cpu1", "f", "l", 8, 0.0, 0.0, 400.0, deferred_qps=5.0)
PLAN = plan_of(SECOND)


class TwoStages:
    """`s` on cpu0 takes 10 ms and `l` on cpu1 20 ms; batches end when they are told to."""

    def __init__(self, second_factor: float = 10) -> None:
        measured = (
            make_measured("f", "s", 0.8, {1: 0.01, 8: 0.01}, power_w=10.0),
            make_measured("f", "l", 0.95, {1: 0.02, 8: 0.02}, power_w=20.0),
        )
        self.profiles = profiles = {device: make_profile(device, *measured) for device in ("cpu0", "cpu1")}
        self.first, self.second = Scaling(1), Scaling(second_factor)
        executors = {"cpu0": self.first, "cpu1": self.second}

        controller = Controller({"f": SLO_S}, dict.fromkeys(profiles, 1), live_policy_named("proteus"))
        models: Any = {("f", variant): None for variant in ("s", "l")}
        served = ServedFamily("f", twice(FLOAT), SLO_S, max_rows=8, best_accuracy=0.95)
        clock = asyncio.get_running_loop().time
        self.plane = make_data_plane(
            controller,
            [served],
            tuple(profiles),
            lambda device, _on_lost: executors[device],
            clock,
            models=models,
            profiles=profiles,
        )
        self.results: list[Result] = []

    def submit(self, *rows: tuple[float, float], options: RequestOptions = DEFAULT_OPTIONS) -> Any:
        content = np.array(rows, FLOAT).tobytes()
        query = Query("f", len(rows), ((0, False),), options)
        return self.plane.admission.submit(query, lambda: (content,), self.results.append)

    async def after_first_stage(self, *rows: tuple[float, float], options: RequestOptions = DEFAULT_OPTIONS) -> Any:
        """A request to which the first stage has an answer 10 ms after its arrival."""
        request = self.submit(*rows, options=options)
        await asyncio.sleep(0.01)
        self.first.release()
        await asyncio.sleep(0.001)
        return request

    @property
    def answer(self) -> tuple[list[float], AnsweredBatch, Staged]:
        (result,) = self.results
        assert isinstance(result, Answered), result
        assert result.batch.staged is not None
        return result.outputs[0].ravel().tolist(), result.batch, result.batch.staged

    @property
    def counted(self) -> tuple[dict[tuple[str, str], int], int, int]:
        """Outcomes by device, what was deferred, and the fallbacks."""
        counts = self.plane.counts.by_family["f"]
        outcomes = {(device, o.value): n for (_, device, o), n in counts.outcomes.items() if n}
        return outcomes, counts.deferred, counts.fallbacks


def run(test: Callable[[TwoStages], Awaitable[None]], plan: Plan = PLAN, **options: Any) -> None:
    async def in_loop() -> None:
        world = TwoStages(**options)
        await world.plane.fleet.deploy(plan)
        world.plane.lifecycle.on(LifecycleEvent.WARMED_UP)
        await test(world)
        assert world.plane.results.in_flight_count == 0
        assert requests_waiting(world.plane.controller) == 0
        await asyncio.sleep(1.0)  # no timer is left that does more
        assert len(world.results) <= 1

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(in_loop())
