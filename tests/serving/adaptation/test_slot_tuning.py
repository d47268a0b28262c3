"""The live server's own code in virtual time, on a device whose slots share its work."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from builders import make_measured, make_placement, make_plan, make_profile
from virtual_loop import VirtualLoop

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import live_policy_named
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.adaptation.slot_tuning import SlotTuning
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.requests.data_plane import DataPlane, DataPlaneOptions, make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.query import Query, RequestOptions
from proteus_cli.serving.telemetry.metrics import slot_metrics, written
from proteus_cli.serving.telemetry.telemetry import MAX_SLOTS, lately_changed, slots_status

SLOTS, ROW_S, RATE_QPS = 4, 0.01, 150.0
ONE_ROW = Signature(
    (TensorSpec("x", np.dtype(np.float32), (1,)),), (TensorSpec("y", np.dtype(np.float32), (1,)),)
)  # fmt: skip


class SharingExecutor:
    """Runs batches side by side, and does as much work a second as ``knee`` of them do alone."""

    runs_inline = can_give_way = False
    pid = None

    def __init__(self, knee: int) -> None:
        self.knee, self.most = knee, 0
        self._running: list[list[Any]] = []  # work left, callback
        self._at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def send_ahead(self, model: object) -> None: ...

    async def load(self, key: VariantKey, model: object, warm_up_rows: int, *, gives_way: bool = False) -> Signature:
        return ONE_ROW

    def unload(self, key: VariantKey) -> None: ...

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self._advance()
        self._running.append([batch.rows * ROW_S, batch.rows, done])
        self.most = max(self.most, len(self._running))
        self._wake()

    def close(self) -> None: ...

    def abandon(self) -> None:
        self._running.clear()

    @property
    def _speed(self) -> float:
        return min(len(self._running), self.knee) / max(len(self._running), 1)

    def _advance(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for each in self._running:
            each[0] -= self._speed * (now_s - self._at_s)
        self._at_s = now_s

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._running:
            left_s = min(each[0] for each in self._running) / self._speed
            self._timer = asyncio.get_running_loop().call_later(max(left_s, 0.0), self._end)

    def _end(self) -> None:
        self._advance()
        ended = [each for each in self._running if each[0] <= 1e-9]
        self._running = [each for each in self._running if each[0] > 1e-9]
        for _, rows, done in ended:
            done(BatchResult((np.zeros((rows, 1), np.float32),), 0.001))
        self._wake()


def served(
    executor: SharingExecutor,
    until_s: float,
    *,
    tunes: bool,
    during: Callable[[DataPlane, float], None] = lambda _plane, _now_s: None,
) -> DataPlane:
    """Serve Poisson arrivals until then in virtual time; returns the plane, after all requests have ended."""

    async def serve() -> DataPlane:
        loop = asyncio.get_running_loop()
        alone = {1: ROW_S, 2: 2 * ROW_S}
        measured = make_measured("f", "v", 0.9, alone, at_once_s=dict.fromkeys(range(2, SLOTS + 1), alone))
        profile = make_profile("gpu0", measured, slots=SLOTS)
        controller = Controller({"f": 5.0}, {"gpu0": SLOTS}, live_policy_named("proteus"))
        plane = make_data_plane(
            controller, [ServedFamily("f", ONE_ROW, 5.0, max_rows=2, best_accuracy=0.9, variants={"v": 0.9})],
            ["gpu0"], lambda _device, _on_lost: executor, loop.time,  # type: ignore[arg-type, return-value]
            models={VariantKey("f", "v"): None}, profiles={"gpu0": profile},  # type: ignore[dict-item]
            options=DataPlaneOptions(tunes_slots=tunes),
        )  # fmt: skip
        await plane.fleet.deploy(
            make_plan(make_placement("gpu0", "f", "v", max_batch=2, rate_qps=RATE_QPS, capacity_qps=400))
        )
        plane.lifecycle.on(LifecycleEvent.WARMED_UP)
        tuning = asyncio.create_task(SlotTuning(controller, plane.fleet, loop.time).run())
        rng, results = np.random.default_rng(4), list[Any]()
        submitted = 0
        while loop.time() < until_s:
            query = Query("f", 1, ((0, False),), RequestOptions())
            plane.admission.submit(query, lambda: (bytes(4),), results.append)
            submitted += 1
            await asyncio.sleep(rng.exponential(1 / RATE_QPS))
            during(plane, loop.time())
        await asyncio.sleep(6.0)
        tuning.cancel()
        assert len(results) == submitted
        counts = plane.counts.by_family["f"]
        assert sum(counts.of_outcome(outcome) for outcome in Outcome) == submitted
        assert counts.of_outcome(Outcome.FAILED) == 0
        return plane

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(serve())


def test_a_device_uses_the_slots_that_are_worth_it_and_every_request_ends_once() -> None:
    executor = SharingExecutor(knee=2)
    plane = served(executor, 10.0, tunes=True)
    tuner = plane.fleet.tuners["gpu0"]
    assert executor.most == SLOTS  # at first
    assert tuner.settled == tuner.knee == 2
    assert plane.controller.workers["gpu0"].slots == tuner.slots
    status = slots_status(tuner, 20.0)
    assert (status.opened, status.settled, status.knee, status.busy) == (SLOTS, 2, 2, 0)
    assert {level.running: round(level.throughput, 2) for level in status.levels}[2] == 0.5  # of what was profiled
    columns = status.scatter
    assert len(columns.slots) == len(columns.running) == len(columns.throughput) == len(columns.service_s) > 5
    assert status.last[-1].slots == 2
    assert lately_changed(plane.fleet.tuners) == ["gpu0"]
    assert len(lately_changed({f"gpu{n}": tuner for n in range(20)})) == MAX_SLOTS
    text = _metrics(plane)
    assert 'proteus_slots_used{device="gpu0"} 2' in text
    assert 'proteus_slots_knee{device="gpu0"} 2' in text


def test_a_device_that_another_server_uses_from_now_on_is_learned_anew_at_once() -> None:
    begun_anew = dict[str, int]()

    def share(plane: DataPlane, now_s: float) -> None:
        tuner = plane.fleet.tuners["gpu0"]
        if now_s >= 8.0 and "before" not in begun_anew:
            begun_anew["before"] = tuner.begun_anew
            plane.fleet.share("gpu0", 2)
        elif now_s >= 8.15 and "after" not in begun_anew:
            begun_anew["after"] = tuner.begun_anew

    served(SharingExecutor(knee=2), 9.0, tunes=True, during=share)
    assert begun_anew["after"] == begun_anew["before"] + 1


def test_without_tuning_all_slots_stay_in_use_and_nothing_is_watched() -> None:
    executor = SharingExecutor(knee=2)
    plane = served(executor, 2.0, tunes=False)
    assert plane.controller.workers["gpu0"].slots == SLOTS
    assert not plane.fleet.tuners
    assert type(plane.fleet.workers["gpu0"]).__name__ == "Worker"
    assert not _metrics(plane)


def test_fewer_slots_end_no_batch_and_lose_no_request() -> None:
    """Slots that go up and down as fast as anyone can change them."""
    executor, used = SharingExecutor(knee=4), set[int]()

    def change(plane: DataPlane, now_s: float) -> None:
        plane.fleet.use_slots("gpu0", 1 + int(now_s * 50) % SLOTS)
        used.add(plane.controller.workers["gpu0"].slots)

    served(executor, 4.0, tunes=False, during=change)
    assert used == set(range(1, SLOTS + 1))


def _metrics(plane: DataPlane) -> str:
    return written(slot_metrics(plane.fleet.tuners, 20.0)).decode()
