"""A worker asks, and obeys."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from builders import hosted, make_request, make_table, near

from proteus_cli.arrays import Ints
from proteus_cli.backends.base import Part
from proteus_cli.control.decision import IDLE, Decision, Launch, WaitUntil
from proteus_cli.control.devices.breaker import LONGEST_TURN_S, hang_timeout_s
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.request import Request
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult
from proteus_cli.serving.fleet.worker import INLINE_S, Worker


class ScriptedController:
    """Says what it was told to say, and remembers at which time it was asked; idle when the script is over."""

    def __init__(self, script: Sequence[Decision]) -> None:
        self.script, self.asked_s = list(script), list[float]()
        self.took_s: list[float | None] = []

    def decide(self, device: str, now_s: float) -> Decision:
        self.asked_s.append(now_s)
        return self.script.pop(0) if self.script else IDLE

    def slowdown_of(self, device: str) -> float:
        return 1.0

    def finished(self, launch: Launch, took_s: float | None) -> None:
        self.took_s.append(took_s)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def asked(script: Sequence[Decision], times_s: Sequence[float]) -> list[float]:
    """The times at which the controller was asked by a worker that was woken at ``times_s``."""

    async def run() -> list[float]:
        controller, clock = ScriptedController(script), Clock()
        asks: Any = controller
        nothing_runs: Any = None
        worker = Worker("cpu0", asks, double(SlowExecutor()), nothing_runs, clock, {}, nothing_runs, 3600.0)
        for now_s in times_s:
            clock.now_s = now_s
            worker.ask()
        return controller.asked_s

    return asyncio.run(run())


def test_a_moment_that_was_waited_for_is_not_missed_where_the_timer_is_late() -> None:
    assert asked([WaitUntil(5.0)], [1.0, 5.3]) == [1.0, 5.0]


def test_a_worker_that_is_woken_early_says_so() -> None:
    assert asked([WaitUntil(5.0), WaitUntil(5.0)], [1.0, 4.9, 5.0]) == [1.0, 4.9, 5.0]


def test_a_moment_that_is_over_is_forgotten() -> None:
    assert asked([WaitUntil(5.0)], [1.0, 5.3, 5.4]) == [1.0, 5.0, 5.4]
    assert asked([WaitUntil(5.0), IDLE], [1.0, 2.0, 9.0]) == [1.0, 2.0, 9.0]


class ChainController:
    """Each of the devices, numbered from 0 on, leaves work to the next one; the last leaves some to the first again."""

    def __init__(self, devices: int) -> None:
        self.devices, self.asked = devices, list[int]()

    def decide(self, device: str, now_s: float) -> Decision:
        number = int(device)
        self.asked.append(number)
        if self.asked.count(number) > 1 or number == self.devices - 1:
            return self._leaving("0") if len(self.asked) == self.devices else IDLE
        return self._leaving(str(number + 1))

    def _leaving(self, device: str) -> Launch:
        """A batch that leaves work to a device."""
        host = hosted(device, "a", latency_s={1: 1.0})
        return Launch(host, (), 1, 0.0, wake=(device,))

    def slowdown_of(self, device: str) -> float:
        return 1.0


def test_thousands_of_workers_may_wake_each_other() -> None:
    """One after another, and then each goes on where it was, the last first."""
    controller, others = ChainController(2000), dict[str, Worker]()
    asks: Any = controller
    nothing: Any = None
    for number in range(controller.devices):
        executor = double(SlowExecutor())
        others[f"{number}"] = Worker(f"{number}", asks, executor, double(Results()), Clock(), others, nothing, 3600.0)
    others["0"].ask()
    everyone = list(range(controller.devices))
    assert controller.asked == [*everyone, 0, *reversed(everyone)]


class SlowExecutor:
    """Batches that were submitted end when the test says so, after 5 ms in the model; nothing may run inline.

    ``elapsed_s``: what their device's own process says of that, if it has one. They wait for other servers' batches.
    """

    runs_inline, can_give_way = True, False

    def __init__(self, elapsed_s: float = 0.0, waited_s: float = 0.0) -> None:
        self.submitted: list[BatchCallback] = []
        self._elapsed_s, self._waited_s = elapsed_s, waited_s

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self.submitted.append(done)

    def end_first(self) -> None:
        self.submitted.pop(0)(BatchResult((), 0.005, elapsed_s=self._elapsed_s, waited_s=self._waited_s))


class Results:
    """Notes when each batch started."""

    def __init__(self) -> None:
        self.started_s: list[float] = []
        self.left_parts: list[tuple[float, Sequence[int]]] = []

    def started(self, launch: Launch) -> Sequence[Part]:
        return ()

    def answered(self, launch: Launch, started_s: float, result: BatchResult) -> None:
        self.started_s.append(started_s)

    def left(self, launch: Launch, started_s: float, parts: Sequence[int], result: BatchResult) -> None:
        self.left_parts.append((started_s, parts))


def double(of: Any) -> Any:
    return of


def test_a_batch_launched_ahead_starts_when_the_one_before_it_ends_and_never_on_the_loop() -> None:
    """A launch at 1 s and, behind it, one of so few microseconds that it would else run on the loop.

    They end at 1.010 and 1.013 s. The first says that it took 5 ms, as long as the model; the second 3 ms.
    """

    async def run() -> tuple[list[float], list[float | None]]:
        long, short = hosted(latency_s={1: 0.01}), hosted(latency_s={1: INLINE_S / 2})
        script = [Launch(long, (make_request(),), 1, 1.0), Launch(short, (make_request(),), 1, 1.01, is_ahead=True)]
        clock, executor, results = Clock(), SlowExecutor(), Results()
        controller: Any = ScriptedController(script)
        worker = Worker("cpu0", controller, double(executor), double(results), clock, {}, double(None), 3600.0)
        clock.now_s = 1.0
        worker.ask()
        assert len(executor.submitted) == 2
        for ends_s in (1.010, 1.013):
            clock.now_s = ends_s
            executor.end_first()
        return results.started_s, controller.took_s

    started_s, took_s = asyncio.run(run())
    assert started_s == [1.0, 1.010]
    assert took_s == [0.005, near(0.003)]


class CuttingController(ScriptedController):
    """Notes what it is told of batches that may be cut short."""

    def __init__(self, script: Sequence[Decision]) -> None:
        super().__init__(script)
        self.ways_s, self.exits, self.dispatch = list[float](), list[list[int] | None](), self

    def exit_bounds(self, launch: Launch) -> None:
        return None

    def answers_came(self, launch: Launch, way_s: float) -> None:
        self.ways_s.append(way_s)

    def finished(self, launch: Launch, took_s: float | None, exits: Ints | None = None) -> None:
        super().finished(launch, took_s)
        self.exits.append(None if exits is None else exits.tolist())


@pytest.mark.parametrize(
    ("ended_s", "network_s", "ways_s"),
    [(1.008, 0.0, [near(0.002)]), (1.0101, 0.0, [0.0]), (0.0, 0.0, []), (1.003, 0.005, [near(0.002)])],
)
def test_of_a_batch_that_may_be_cut_short_the_way_of_the_result_is_measured(
    ended_s: float, network_s: float, ways_s: list[float]
) -> None:
    """It is back at 1.010 s. Both of its rows passed the first stage, and one the second.

    Of another machine, it is what is beyond the network.
    """
    points = [(StagePoint(1, s, 2 * s), StagePoint(2, 2 * s, 4 * s)) for s in (0.001, 0.002)]
    host = replace(
        hosted(latency_s={2: 0.01}),
        exits=tuple(ExitProfile(points=each) for each in points),
        first_exit=make_table({1: 1.0}),
        network=Network(network_s, 1.0, {}),
    )
    notes = np.array([1, 2], np.uint8), np.zeros(2, np.float32), np.zeros(2, np.bool_)

    async def run() -> CuttingController:
        clock, executor = Clock(), SlowExecutor()
        controller = CuttingController([Launch(host, (make_request(rows=2),), 2, 1.0)])
        worker = Worker(
            "cpu0", double(controller), double(executor), double(Results()), clock, {}, double(None), 3600.0
        )
        worker.ask()
        clock.now_s = 1.010
        executor.submitted.pop()(BatchResult((), 0.005, notes=notes, ended_s=ended_s))
        return controller

    controller = asyncio.run(run())
    assert controller.ways_s == ways_s
    assert controller.exits == [[1, 2]]


@pytest.mark.parametrize(("network_s", "end_s"), [(0.001, 1.015), (0.020, 1.033)])
def test_of_a_batch_that_was_submitted_ahead_the_way_counts_that_it_was_on_while_another_ran(
    network_s: float, end_s: float
) -> None:
    """It is sent 2 ms before the other one is back, at 1.010 s, and its stages take 5 ms: with a long way, a pause."""
    host = replace(
        hosted(latency_s={1: 0.01}),
        exits=(ExitProfile(),),
        first_exit=make_table({1: 1.0}),
        network=Network(network_s, 1.0, {}),
    )
    launches = [Launch(host, (make_request(),), 1, 1.0), Launch(host, (make_request(),), 1, 1.01, is_ahead=True)]
    notes = np.array([1], np.uint8), np.zeros(1, np.float32), np.zeros(1, np.bool_)

    async def run() -> list[float | None]:
        clock, executor = Clock(), SlowExecutor()
        controller = CuttingController([launches[0], IDLE, launches[1]])
        worker = Worker(
            "cpu0", double(controller), double(executor), double(Results()), clock, {}, double(None), 3600.0
        )
        for clock.now_s in (1.0, 1.008):
            worker.ask()
        for clock.now_s in (1.010, end_s):
            executor.submitted.pop(0)(BatchResult((), 0.005, notes=notes))
        return controller.took_s

    assert asyncio.run(run())[1] == near(network_s + 0.005)


def test_what_leaves_a_batch_is_told_with_its_start_unless_the_batch_was_taken_back() -> None:
    """The second batch begins when the first has ended, at 1.010 s. What leaves the chain at 1.014 is back at 1.015."""
    host, bounds = replace(hosted(latency_s={2: 0.01}), exits=(ExitProfile(),)), ExitBounds([1.0], [1], [])
    two = make_request(0), make_request(1)
    launches = [Launch(host, (make_request(),), 1, 1.0), Launch(host, two, 2, 1.01, is_ahead=True)]
    notes = np.array([1], np.uint8), np.zeros(1, np.float32), np.zeros(1, np.bool_)

    async def run() -> tuple[CuttingController, Results]:
        clock, results, batches = Clock(), Results(), list[tuple[Batch, BatchCallback]]()
        controller, executor = CuttingController(list(launches)), SlowExecutor()
        controller.dispatch.exit_bounds = lambda _launch: bounds  # type: ignore[method-assign, assignment]
        executor.submit = lambda *each: batches.append(each)  # type: ignore[method-assign]
        worker = Worker("cpu0", double(controller), double(executor), double(results), clock, {}, double(None), 3600.0)
        worker.ask()
        clock.now_s = 1.010
        batches[0][1](BatchResult((), 0.005))
        clock.now_s = 1.015
        leaving = batches[1][0].leaving
        assert leaving is not None
        leaving([1], BatchResult((), 0.001, notes=notes, ended_s=1.014))
        worker.take_back()
        leaving([0], BatchResult((), 0.001, notes=notes, ended_s=1.014))
        return controller, results

    controller, results = asyncio.run(run())
    assert results.left_parts == [(1.010, [1])]
    assert controller.ways_s == [near(0.001)]


@pytest.mark.parametrize(
    ("left", "ways_s"),
    [([], [near(0.0001)]), ([1], [near(0.0001), near(0.0001)]), ([0, 1, 2], [near(0.0001)])],
)
def test_answers_that_left_a_batch_came_once(left: list[int], ways_s: list[float]) -> None:
    """Three requests, of 1, 2 and 1 rows, of which some leave at 1.005 s. The batch is back at 1.010 s."""
    host, bounds = replace(hosted(latency_s={4: 0.01}), exits=(ExitProfile(),)), ExitBounds([1.0] * 3, [1, 2, 1], [])
    host = replace(host, first_exit=make_table({4: 0.005}))
    requests = tuple(Request(number, "a", 0.0, 9.0, rows=rows) for number, rows in enumerate((1, 2, 1)))

    def notes(*exits: int) -> tuple[Any, ...]:
        return np.array(exits, np.uint8), np.zeros(len(exits), np.float32), np.zeros(len(exits), np.bool_)

    async def run() -> CuttingController:
        clock, batches = Clock(), list[tuple[Batch, BatchCallback]]()
        controller, executor = CuttingController([Launch(host, requests, 4, 1.0)]), SlowExecutor()
        controller.dispatch.exit_bounds = lambda _launch: bounds  # type: ignore[method-assign, assignment]
        executor.submit = lambda *each: batches.append(each)  # type: ignore[method-assign]
        worker = Worker(
            "cpu0", double(controller), double(executor), double(Results()), clock, {}, double(None), 3600.0
        )
        clock.now_s = 1.0
        worker.ask()
        [(batch, done)] = batches
        if left:
            assert batch.leaving is not None
            clock.now_s = 1.005
            batch.leaving(
                left,
                BatchResult((), 0.004, notes=notes(*[1] * sum(requests[each].rows for each in left)), ended_s=1.0049),
            )
        clock.now_s = 1.010
        done(BatchResult((), 0.009, notes=notes(1, 2, 2, 4), ended_s=1.0099))
        return controller

    assert asyncio.run(run()).ways_s == ways_s


def test_nothing_starts_before_it_was_launched() -> None:
    """Woken for 5 s at 5.3 s: what has come meanwhile would else have waited for less than no time.

    Nor does what stands behind a batch that ended before that was launched, as far as the worker knows.
    """

    async def run() -> list[float]:
        host, clock, executor, results = hosted(latency_s={1: 0.01}), Clock(), SlowExecutor(), Results()
        launches = [Launch(host, (make_request(),), 1, 5.0), Launch(host, (make_request(),), 1, 5.5, is_ahead=True)]
        controller: Any = ScriptedController([WaitUntil(5.0), launches[0], IDLE, IDLE, launches[1]])
        worker = Worker("cpu0", controller, double(executor), double(results), clock, {}, double(None), 3600.0)
        for asked_s, ends_s in ((1.0, None), (5.3, 5.4), (5.5, 5.6)):
            clock.now_s = asked_s
            worker.ask()
            if ends_s is not None:
                clock.now_s = ends_s
                executor.end_first()
        return results.started_s

    assert asyncio.run(run()) == [5.3, 5.5]


def test_a_device_is_busy_once_however_many_batches_run() -> None:
    """Two batches from 1 s on, to 1.010 and 1.013 s, and one alone from 2 s to 2.001 s: 14 ms in all."""

    def launch(at_s: float) -> Launch:
        return Launch(hosted(latency_s={1: 0.01}), (make_request(),), 1, at_s)

    async def run() -> float:
        clock, executor = Clock(), SlowExecutor()
        controller: Any = ScriptedController([launch(1.0), launch(1.0), IDLE, IDLE, IDLE, launch(2.0)])
        worker = Worker("gpu0", controller, double(executor), double(Results()), clock, {}, double(None), 3600.0)
        for asked_s, ends_s in ((1.0, (1.010, 1.013)), (2.0, (2.001,))):
            clock.now_s = asked_s
            worker.ask()
            for clock.now_s in ends_s:
                executor.end_first()
        return worker.busy_s

    assert asyncio.run(run()) == near(0.014)


@pytest.mark.parametrize(
    ("elapsed_s", "service_s"),
    [(0.0, 0.005), (0.0055, 0.005), (0.206, 0.205)],
    ids=["no process", "handed over", "its process stood still"],
)
def test_what_a_process_stood_still_is_time_that_its_device_took(elapsed_s: float, service_s: float) -> None:
    """Of 5 ms in the model; that the loop hears of the end 50 ms late says nothing of the device."""

    async def run() -> list[float | None]:
        clock, executor = Clock(), SlowExecutor(elapsed_s)
        controller = ScriptedController([Launch(hosted(latency_s={1: 0.01}), (make_request(),), 1, 1.0)])
        worker = Worker(
            "cpu0", double(controller), double(executor), double(Results()), clock, {}, double(None), 3600.0
        )
        clock.now_s = 1.0
        worker.ask()
        clock.now_s = 1.0 + elapsed_s + 0.05
        executor.end_first()
        return controller.took_s

    assert asyncio.run(run()) == [near(service_s)]


@pytest.mark.parametrize(
    ("waited_s", "is_ahead", "service_s"),
    [(0.0, False, 0.010), (0.004, False, 0.010), (0.020, False, 0.025), (0.004, True, 0.010), (0.0, True, 0.110)],
    ids=["no wait", "a short wait", "long batches of others", "ahead, waited", "ahead, did not wait"],
)
def test_of_a_shared_device_a_batch_counts_as_what_this_servers_part_can_do(
    waited_s: float, service_s: float, *, is_ahead: bool
) -> None:
    """Two servers; a batch of 5 ms, which was handed over within half a millisecond and ends 55 ms after its launch."""

    async def run() -> tuple[list[float | None], float]:
        clock, executor = Clock(), SlowExecutor(0.0055 + waited_s, waited_s)
        launch = Launch(hosted(latency_s={1: 0.01}), (make_request(),), 1, 1.0, is_ahead=is_ahead)
        controller = ScriptedController([launch])
        worker = Worker(
            "cpu0", double(controller), double(executor), double(Results()), clock, {}, double(None), 3600.0
        )
        worker.servers = 2
        clock.now_s = 1.0
        worker.ask()
        clock.now_s = 1.055
        executor.end_first()
        return controller.took_s, worker.waited_s

    assert asyncio.run(run()) == ([near(service_s)], waited_s)


def test_a_batch_on_a_shared_device_hangs_later_as_it_may_wait_for_turns() -> None:
    assert hang_timeout_s(0.02, servers=3) == hang_timeout_s(0.02) + 2 * LONGEST_TURN_S


def test_nothing_leaves_a_batch_that_runs_on_the_loop() -> None:
    """It has ended before anybody could be told."""
    host, batches = replace(hosted(latency_s={1: INLINE_S / 2}), exits=(ExitProfile(),)), list[Batch]()

    def run(batch: Batch) -> BatchResult:
        batches.append(batch)
        return BatchResult((), INLINE_S / 2)

    async def ask() -> None:
        controller, executor = CuttingController([Launch(host, (make_request(),), 1, 1.0)]), double(SlowExecutor())
        controller.dispatch.exit_bounds = lambda _launch: ExitBounds([1.0], [1], [])  # type: ignore[method-assign, assignment]
        executor.run = run
        Worker("cpu0", double(controller), executor, double(Results()), Clock(), {}, double(None), 3600.0).ask()

    asyncio.run(ask())
    assert [each.leaving for each in batches] == [None]
