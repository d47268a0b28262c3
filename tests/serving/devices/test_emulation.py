"""Emulated devices take the times of their profile, one batch after another, and make their answers up."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from agents import until
from builders import (
    make_catalog,
    make_family,
    make_measured,
    make_points,
    make_profile,
    make_sharing_cost,
    near,
)
from tiny import INPUTS, mlp

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.backends.emulated import STUB, EmulatedEngine
from proteus_cli.backends.exits.runner import NOTES
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import EngineError
from proteus_cli.serving.devices import emulated
from proteus_cli.serving.devices.emulated import EmulatedExecutor, TimerThread
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.hardware import Hardware, emulated_devices

NO_MODEL = Path()
SMALL, LARGE = VariantKey("a", "a-s"), VariantKey("a", "a-l")
MEASURED = make_measured("a", "a-s", 0.8, {1: 0.01, 2: 0.016, 4: 0.02}, load_s=0.02)
PROFILE = make_profile("v100-0", MEASURED, make_measured("a", "a-l", 0.9, {1: 0.1}, load_s=0.03), device_type="v100")


class Agenda:
    """A clock that is set by hand, and what was set for when."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.set: list[tuple[float, Callable[[], None]]] = []

    def clock(self) -> float:
        return self.now_s

    def at(self, due_s: float, call: Callable[[], None]) -> None:
        self.set.append((due_s, call))

    @property
    def due_s(self) -> list[float]:
        return [due_s for due_s, _ in self.set]


def part(*values: float) -> tuple[int, tuple[bytes]]:
    """A request of so many rows of one number."""
    return len(values), (np.array(values, np.float32).tobytes(),)


def batch(rows: int, key: VariantKey = SMALL) -> Batch:
    return Batch(key, [part(*range(rows))], rows)


def loaded(agenda: Agenda, profile: Any = PROFILE, keys: Sequence[VariantKey] = (SMALL,)) -> EmulatedExecutor:
    async def load() -> EmulatedExecutor:
        executor = EmulatedExecutor(profile, {"a": STUB}, agenda.clock, agenda.at, print)
        for key in keys:
            assert await executor.load(key, NO_MODEL, 4) == STUB
        return executor

    return asyncio.run(load())


# --- when batches end


def test_batches_run_one_after_another_for_the_times_of_their_sizes() -> None:
    agenda = Agenda()
    executor, told = loaded(agenda), list[Any]()
    agenda.now_s = 5.0
    for rows in (1, 4, 3):
        executor.submit(batch(rows), told.append)
    assert agenda.due_s == pytest.approx([5.01, 5.03, 5.048])
    for _, call in agenda.set:
        call()
    assert [result.compute_s for result in told] == pytest.approx([0.01, 0.02, 0.018])
    assert [len(result.outputs[0]) for result in told] == [1, 4, 3]


def test_times_beside_others_are_of_what_is_loaded_and_not_kept_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulated, "MAX_SLOWED", 2)
    costs = (make_sharing_cost(SMALL, LARGE, ratio=2.0),)
    agenda = Agenda()
    executor = loaded(agenda, msgspec.structs.replace(PROFILE, sharing=costs))
    for number in range(5):
        others = frozenset({LARGE, VariantKey("b", f"b{number}")})
        executor.submit(Batch(SMALL, [part(0)], 1, others=others), print)
    assert agenda.due_s == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert len(executor._slowed) == 2
    with pytest.raises(KeyError):
        executor.submit(Batch(LARGE, [part(0)], 1, others=frozenset({SMALL})), print)


def test_a_late_loop_does_not_make_the_device_slower() -> None:
    """What was given to it before it was free began then."""
    agenda = Agenda()
    executor = loaded(agenda)
    executor.submit(batch(1), print)
    agenda.now_s = 0.009
    executor.submit(batch(1), print)
    agenda.now_s = 0.0195  # 9.5 ms after the first ended
    executor.submit(batch(1), print)
    assert agenda.due_s == pytest.approx([0.01, 0.02, 0.03])


def test_as_many_batches_run_at_once_as_the_device_has_slots() -> None:
    """The first takes 10 ms alone and the second 15 ms beside it; a third waits for the first to end."""
    measured = make_measured("a", "a-s", 0.8, {1: 0.010}, at_once_s={2: {1: 0.015}})
    agenda = Agenda()
    device = loaded(agenda, make_profile("v100-0", measured, slots=2))
    for _ in range(3):
        device.submit(batch(1), lambda _result: None)
    assert agenda.due_s == pytest.approx([0.010, 0.015, 0.025])
    for due_s, end in list(agenda.set):
        agenda.now_s = due_s
        end()
    device.submit(batch(1), lambda _result: None)  # alone again
    assert agenda.due_s[-1] == near(0.035)


def test_a_batch_takes_the_mean_latency() -> None:
    points = tuple(msgspec.structs.replace(point, mean_s=0.004) for point in make_points({1: 0.01}))
    agenda = Agenda()
    executor = loaded(agenda, make_profile("v100-0", msgspec.structs.replace(MEASURED, points=points)))
    executor.submit(batch(1), print)
    assert agenda.due_s == pytest.approx([0.004])


def test_batches_end_though_their_engine_is_unloaded_or_the_device_closed() -> None:
    agenda = Agenda()
    executor, told = loaded(agenda), list[Any]()
    executor.submit(batch(2), told.append)
    executor.unload(SMALL)
    with pytest.raises(KeyError):
        executor.submit(batch(1), told.append)
    executor.close()
    with pytest.raises(RuntimeError, match="v100-0 is closed"):
        executor.submit(batch(1), told.append)
    for _, call in agenda.set:
        call()
    assert [len(result.outputs[0]) for result in told] == [2]


# --- loading


def test_a_device_loads_one_variant_after_another() -> None:
    async def load() -> float:
        executor = EmulatedExecutor(PROFILE, {"a": STUB}, time.monotonic, Agenda().at, print)
        start_s = time.monotonic()
        await asyncio.gather(*(executor.load(key, NO_MODEL, 4) for key in (SMALL, LARGE)))
        return time.monotonic() - start_s

    assert asyncio.run(load()) >= 0.049  # the loop's clock may be a moment ahead


def test_a_multi_exit_model_goes_stage_by_stage_and_notes_the_exits() -> None:
    """Stages take 2 ms a row. Of three rows, one stops at the first exit, and one has no time for a third stage.

    That one leaves, and the others end with the batch. Without bounds, it is only tried out: that takes what any batch
    does.
    """
    stage = (StagePoint(1, 0.002, 0.002), StagePoint(4, 0.008, 0.008))
    exits = (ExitProfile(0.5, 0.9, 0.6, stage), ExitProfile(0.3, 0.8, 0.5, stage), ExitProfile(0.2, 0.7, None, stage))
    profile = make_profile("v100-0", msgspec.structs.replace(MEASURED, exits=exits))
    agenda, told = Agenda(), list[Any]()
    ranks = np.array([0.9, 0.1, 0.1])
    signature = replace(STUB, notes=NOTES)

    async def load() -> EmulatedExecutor:
        executor = EmulatedExecutor(profile, {"a": STUB}, agenda.clock, agenda.at, print, lambda rows: ranks[:rows])
        assert await executor.load(SMALL, NO_MODEL, 4) == signature
        return executor

    executor = asyncio.run(load())
    agenda.now_s = 5.0
    due_s = [math.inf, 5.0119, math.inf]
    left = list[tuple[Sequence[int], BatchResult]]()
    bounds, parts = ExitBounds(due_s, [1, 1, 1], exits), [part(1), part(2), part(3)]
    executor.submit(Batch(SMALL, parts, 3, bounds, leaving=lambda *each: left.append(each)), told.append)
    executor.submit(batch(3), told.append)
    assert agenda.due_s == pytest.approx([5.010, 5.012, 5.030])
    for _, call in agenda.set:
        call()
    exits_of_rows, confidences, cut, held, energy_j = told[0].notes
    assert (exits_of_rows.tolist(), cut.tolist()) == ([1, 2, 3], [False, True, False])
    assert held.tolist() == [1, 0, 3]
    ((places, of_one),) = left
    assert places == (1,)
    assert (of_one.ended_s, of_one.compute_s) == pytest.approx((5.010, 0.010))
    for values, of_all in zip(of_one.given, told[0].given, strict=True):
        np.testing.assert_array_equal(values, of_all[1:2])
    assert np.isnan(confidences).all()
    assert np.isnan(energy_j).all()
    assert [values.dtype for values in told[1].notes] == [spec.dtype for spec in NOTES]


def test_a_multi_exit_model_of_another_machine_takes_the_way_there_and_its_stages() -> None:
    """Batches of any size are on their way for 5 ms, which is part of what the profile says of the whole alone.

    The first row leaves at 1.002 s, and the batch ends at 1.003 s; both are back 5 ms later.
    """
    stage = (StagePoint(1, 0.001, 0.001), StagePoint(2, 0.002, 0.002))
    exits = (ExitProfile(0.5, points=stage), ExitProfile(0.5, points=stage))
    profile = make_profile("a/cpu0", msgspec.structs.replace(MEASURED, exits=exits))
    profile = msgspec.structs.replace(profile, network=Network(0.005, 1e6, {}))
    agenda, told, left = Agenda(), list[Any](), list[tuple[Sequence[int], BatchResult]]()

    async def load() -> EmulatedExecutor:
        executor = EmulatedExecutor(profile, {"a": STUB}, agenda.clock, agenda.at, print, np.zeros)
        await executor.load(SMALL, NO_MODEL, 2)
        return executor

    executor = asyncio.run(load())
    agenda.now_s = 1.0
    bounds = ExitBounds([1.0025, math.inf], [1, 1], exits)
    parts = [part(1), part(2)]
    executor.submit(Batch(SMALL, parts, 2, bounds, leaving=lambda *each: left.append(each)), told.append)
    executor.submit(batch(2), told.append)
    assert agenda.due_s == pytest.approx([1.007, 1.008, 1.008 + 0.016])
    for _, call in agenda.set:
        call()
    (whole, tried), ((_, of_one),) = told, left
    assert (whole.ended_s, whole.compute_s) == pytest.approx((1.003, 0.008))
    assert (of_one.ended_s, tried.compute_s) == pytest.approx((1.002, 0.016))


def test_a_variant_that_was_never_profiled_cannot_be_loaded() -> None:
    with pytest.raises(EngineError, match="`a-xl` was never profiled on a `v100`"):
        loaded(Agenda(), keys=[VariantKey("a", "a-xl")])
    untimed = make_profile("v100-0", msgspec.structs.replace(MEASURED, points=()))
    with pytest.raises(EngineError, match="no times to emulate it with") as caught:
        loaded(Agenda(), untimed)
    assert "--from-csv" in caught.value.hint


# --- answers


def scores(variant: str, *parts: tuple[int, tuple[bytes, ...]], signature: Signature = STUB) -> Any:
    engine = EmulatedEngine(msgspec.structs.replace(MEASURED, variant=variant), signature)
    return engine.scores(parts)


def test_scores_depend_on_the_variant_and_the_row_alone() -> None:
    (together,) = scores("a-s", part(1, 2), part(3))
    (apart,) = scores("a-s", part(1), part(2, 3))
    assert np.array_equal(together, apart)
    assert (together.shape, together.dtype) == ((3, 10), np.float32)
    assert ((together >= 0) & (together < 1)).all()
    (again, other), (of_another,) = scores("a-s", part(1, 2))[0], scores("a-l", part(1))
    assert np.array_equal(again, together[0])
    assert not np.array_equal(again, other)
    assert not np.array_equal(again, of_another[0])


def test_outputs_have_the_shapes_and_types_of_the_signature() -> None:
    ends = (TensorSpec("x", np.dtype(np.int64), (2,)), TensorSpec("z", np.dtype(np.float16), (2, 2)))
    outputs = (
        TensorSpec("boxes", np.dtype(np.float16), (None, 4)),
        TensorSpec("labels", np.dtype(np.int64), ()),
        TensorSpec("is_odd", np.dtype(np.bool_), (3,)),
    )
    inputs = np.arange(6, dtype=np.int64).tobytes(), np.arange(12, dtype=np.float16).tobytes()
    found = scores("a-s", (3, inputs), signature=Signature(ends, outputs))
    assert [(values.shape, values.dtype) for values in found] == [
        ((3, 1, 4), np.float16), ((3,), np.int64), ((3, 3), np.bool_),
    ]  # fmt: skip
    assert set(found[1].tolist()) <= {0, 1}
    one_row = scores("a-s", (1, (inputs[0][16:32], inputs[1][8:16])), signature=Signature(ends, outputs))
    assert all(np.array_equal(one[0], all_rows[1]) for one, all_rows in zip(one_row, found, strict=True))


# --- the timer


def test_the_timer_thread_calls_on_the_loop_in_order_and_never_early() -> None:
    async def rung() -> tuple[list[str], list[str]]:
        found, now_s, here = list[str](), 0.0, threading.get_ident()

        def call(name: str) -> Callable[[], None]:
            def ring() -> None:
                assert threading.get_ident() == here
                found.append(name)

            return ring

        with TimerThread(lambda: now_s) as timer:
            timer.at(3600.0, call("last"))
            for name in ("first", "second", "third"):
                timer.at(60.0, call(name))
            try:
                for number in range(20):  # the thread waits for a later one, and must wake now
                    timer.at(0.0, call(str(number)))
                    await until(lambda: len(found) > number)  # noqa: B023 - it is awaited
                early = found.copy()
            finally:
                now_s = 3600.0
        await asyncio.sleep(0)
        return early, found[len(early) :]

    early, late = asyncio.run(rung())
    assert early == [str(number) for number in range(20)]
    assert late == ["first", "second", "third", "last"]


def test_leaving_the_timer_thread_waits_for_its_calls() -> None:
    async def left() -> tuple[float, list[float]]:
        rung: list[float] = []
        start_s = time.monotonic()
        with TimerThread() as timer:
            timer.at(start_s + 0.03, lambda: rung.append(time.monotonic()))
        took_s = time.monotonic() - start_s
        await asyncio.sleep(0)
        return took_s, rung

    took_s, rung = asyncio.run(left())
    assert took_s >= 0.03
    assert len(rung) == 1


# --- behind a worker


# --- what a server is given


def made_up_devices(models: Any = None) -> Any:
    quick = msgspec.structs.replace(MEASURED, points=make_points({1: 1e-6, 4: 2e-6}))
    catalog = make_catalog(make_family("a", {"a-s": 0.8, "a-l": 0.9}), make_family("b", {"b-s": 0.7}))
    return emulated_devices({"v100-0": make_profile("v100-0", quick, device_type="v100")}, catalog, models or {})


def test_a_signature_comes_from_a_model_where_there_is_one(tmp_path: Path) -> None:
    async def opened() -> Hardware:
        with made_up_devices({("a", "a-l"): mlp(tmp_path / "a-l.onnx")}) as hardware:
            found: Hardware = hardware
            return found

    hardware = asyncio.run(opened())
    assert (hardware.platform, hardware.is_emulated) == ("proteus_emulated", True)
    assert hardware.stubs == {"b"}
    assert hardware.signatures["b"] == STUB
    (x,), (y,) = hardware.signatures["a"].inputs, hardware.signatures["a"].outputs
    assert (x.name, x.shape, y.name) == ("x", (INPUTS,), "scores")


def test_devices_that_are_not_emulated_in_this_process_are_opened_with_what_was_learned() -> None:
    """Their processes know the profile of their start; to learn another one is no error."""

    async def learned() -> bool:
        catalog = make_catalog(make_family("a", {"a-s": 0.8, "a-l": 0.9}))
        with emulated_devices({"v100-0": PROFILE}, catalog, {}, in_processes=True) as hardware:
            other = make_profile("v100-0", MEASURED, device_type="v100")
            hardware.learn([other])
            profiles: Any = hardware
            return bool(profiles.profiles["v100-0"] == other)

    assert asyncio.run(learned())
