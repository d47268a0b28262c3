"""What the runtime part must do, on real pycuda over the fake driver or a real one. Each needs a process of its own.

``python -m contract.runtime.scenarios NAME [WRONG_ADAPTER]`` runs one. It fails with an assertion, and prints figures
otherwise. With a wrong adapter, the code is changed to that first. `drivers` says what the environment decides.
"""

import asyncio
import json
import re
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from time import monotonic, perf_counter
from typing import Any

from contract.runtime import drivers

drivers.set_up()

if __name__ == "__main__" and len(sys.argv) > 2:
    from contract.runtime.wrong_adapters import install

    install(sys.argv[2])

import numpy as np  # noqa: E402 - the double and the wrong adapter come first
import pytest  # noqa: E402
from contract.runtime import harness  # noqa: E402
from contract.runtime.census import CLEAN  # noqa: E402
from contract.runtime.drivers import FAKE, REAL, fake  # noqa: E402
from contract.runtime.drivers import device as driver  # noqa: E402
from contract.runtime.plans import make_plan  # noqa: E402
from exit_nets import WIDTH  # noqa: E402
from tiny import CLASSES, INPUTS  # noqa: E402

from proteus_cli.backends.exits.runner import CUT_NOTE, NOTES  # noqa: E402
from proteus_cli.backends.tensorrt.chain import ChainPlans, LoadedChain, LoadedStages  # noqa: E402
from proteus_cli.backends.tensorrt.cuda import primary_context  # noqa: E402
from proteus_cli.backends.tensorrt.engine import LoadedEngine  # noqa: E402
from proteus_cli.domain.catalog import VariantKey  # noqa: E402
from proteus_cli.domain.profile import Point  # noqa: E402
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint  # noqa: E402
from proteus_cli.domain.stages.stage_forecast import ExitBounds  # noqa: E402
from proteus_cli.errors import DeviceLost, EngineError, OutOfDeviceMemory  # noqa: E402
from proteus_cli.profiling.closed_loop import measure_point  # noqa: E402
from proteus_cli.serving.devices.executor import BatchResult  # noqa: E402
from proteus_cli.units import format_size  # noqa: E402

DELAY_S = 0.004
WORKSPACE_BYTES = 2**20  # of an execution context of the double
MEASURE_S = 0.5
MEASURE_TIMES = 3
TIMED_RUNS = 10

Scenario = Callable[[], Coroutine[Any, Any, str]]
SCENARIOS: dict[str, Scenario] = {}


def on(*devices: str) -> Callable[[Scenario], Scenario]:
    """Where a scenario can be run: only the fake driver makes errors, and counts."""

    def listed(function: Scenario) -> Scenario:
        if drivers.DEVICE in devices:
            SCENARIOS[function.__name__] = function
        return function

    return listed


async def _measured(measure: Scenario) -> str:
    """Repeat a measurement that a busy machine may spoil. A wrong adapter fails each time."""
    for _ in range(MEASURE_TIMES - 1):
        try:
            return await measure()
        except AssertionError:
            fake.slow_down()
    return await measure()


@on(FAKE, REAL)
async def answers() -> str:
    """Batches of all sizes, more at once than there are slots, are answered as on the CPU."""
    driver.slow_down(copies_s=0.001, compute_s=0.0002)  # copies last longer, so what doesn't wait for them is too early
    async with harness.opened(slots=3) as device:
        await device.load(harness.SMALL)
        await device.check(harness.SMALL, 300)
        return "300 batches in 3 slots"


@on(FAKE, REAL)
async def threads() -> str:
    """An engine may be used from several threads: a slot is one thread's at a time."""
    driver.slow_down(copies_s=0.0003, compute_s=0.0003)
    async with harness.opened() as device:
        engine = LoadedEngine(_plan(device), primary_context(0), slots=3)
        wrong: list[int] = []

        def use(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(40):
                rows = rng.random((int(rng.integers(1, harness.MAX_ROWS + 1)), INPUTS), dtype=np.float32)
                found = engine.infer({"x": rows})["scores"]
                wrong.append(not harness.same(found, device.models.answer(harness.SMALL, rows)))

        users = [threading.Thread(target=use, args=(seed,)) for seed in range(5)]
        for user in users:
            user.start()
        for user in users:
            await asyncio.to_thread(user.join)
        engine.close()
        assert (len(wrong), sum(wrong)) == (200, 0), f"wrong answers: {sum(wrong)} of {len(wrong)}"
        return "200 batches from 5 threads in 3 slots"


@on(FAKE)
async def overlap() -> str:
    """With two slots copies overlap computing, and each other, where in one slot they wait.

    By the device's clock: what the host does in between, or others on this machine, counts for nothing.
    """
    return await _measured(_overlap)


async def _overlap() -> str:
    ratios = []
    for slots in (1, 2):
        async with harness.opened(slots=slots, leaves_nothing=False) as device:
            await device.load(harness.SMALL)
            fake.slow_down(copies_s=DELAY_S, compute_s=DELAY_S)
            before_s = fake.busy_s()
            await device.check(harness.SMALL, 40)
            each_s, any_s = (after - before for after, before in zip(fake.busy_s(), before_s, strict=True))
            ratios.append(any_s / each_s)
            fake.slow_down()
    assert ratios[0] > 0.99, f"one slot overlaps with itself: {ratios[0]:.2f}"
    assert ratios[1] < 0.8, f"no overlap: two slots take {ratios[1]:.2f} of the time of one"
    return f"two slots take {ratios[1]:.2f} of the time of one"


@on(REAL)
async def overlap_by_the_clock() -> str:
    """With two slots a batch is put together and copied while the one before is computed."""
    took_s = []
    for slots in (1, 2):
        async with harness.opened(slots=slots) as device:
            await device.load(harness.WIDE)
            await device.check(harness.WIDE, 10)
            asked = [harness.parts_of(device.rows(harness.WIDE)) for _ in range(100)]
            start_s = perf_counter()
            await asyncio.gather(*(device.submit(harness.WIDE, parts) for parts in asked))
            took_s.append(perf_counter() - start_s)
    ratio = took_s[1] / took_s[0]
    assert ratio < 0.9, f"no overlap: two slots take {ratio:.2f} of the time of one"
    return f"two slots take {ratio:.2f} of the time of one"


@on(FAKE)
async def responsive() -> str:
    """Whoever waits for the device neither spins nor holds the GIL: the loop goes on meanwhile."""
    async with harness.opened() as device:
        await device.load(harness.SMALL)
        fake.slow_down(compute_s=0.3)
        running = device.submit(harness.SMALL, harness.parts_of(device.rows()))
        beats = 0
        while not running.done():
            await asyncio.sleep(0.01)
            beats += 1
        assert beats >= 3, f"the loop came round {beats} times in 0.3 s"
        return f"the loop came round {beats} times while a batch ran"


@on(FAKE, REAL)
async def timed() -> str:
    """The device's own time of computing has no copies in it.

    Several times, as what else keeps a busy machine would hide copies that are counted, but not each time.
    """
    async with harness.opened() as device:
        engine = LoadedEngine(_plan(device), primary_context(0), slots=1)
        copy_s, min_s = driver.slow_down(copies_s=0.01, compute_s=0.02)
        inputs = {"x": device.rows()}
        said = ""
        for _ in range(TIMED_RUNS):
            start_s = perf_counter()
            compute_s = engine.compute_s(inputs)
            total_s = perf_counter() - start_s
            assert compute_s >= min_s, "computing is too short"
            assert compute_s <= total_s - 2 * copy_s, "copies are in the time of computing"
            said = f"{compute_s * 1e3:.1f} of {total_s * 1e3:.1f} ms computing"
        engine.close()
        return said


@on(FAKE)
async def slots() -> str:
    """A second slot brings what overlaps, a third nothing where that is all; without copies a second brings nothing.

    By the device's clock: the time for which any of its parts is busy, of what they are busy in all.
    """
    return await _measured(_slots)


async def _slots() -> str:
    async with harness.opened() as device:
        engine = LoadedEngine(_plan(device), primary_context(0), slots=1)
        rows = device.rows()
        run = partial(engine.infer, {"x": rows})
        fake.slow_down(copies_s=0.008, compute_s=0.020)
        alone, alone_frac = _busy(lambda: measure_point(run, len(rows), MEASURE_S))
        computing_s = engine.compute_s({"x": rows})
        fracs = []
        for count in (2, 3):
            engine.add_slot()
            several, frac = _busy(partial(measure_point, run, len(rows), MEASURE_S, slots=count))
            assert several.slots == count
            fracs.append(frac)
        fake.slow_down(compute_s=0.020)
        _, without_copies_frac = _busy(lambda: measure_point(run, len(rows), MEASURE_S, slots=2))
        engine.close()
        second, both = alone_frac / fracs[0], alone_frac / fracs[1]
        assert 0.020 <= computing_s < alone.mean_s - 0.012, f"{computing_s} s of {alone.mean_s} s computing"
        assert alone_frac > 0.99, f"one slot overlaps with itself: {alone_frac:.2f}"
        assert second > 1.35, f"the second slot brings a factor of {second:.2f}"  # 36 ms become 20
        assert both < 1.82, f"computing overlaps with itself: three slots bring a factor of {both:.2f}"
        assert without_copies_frac > 0.95, f"computing overlaps with itself: {without_copies_frac:.2f}"
        return f"the second slot brings {second:.2f}, with a third it is {both:.2f}"


def _busy(measure: Callable[[], Point]) -> tuple[Point, float]:
    """What was measured, and the time for which the device was busy meanwhile, of what its parts were."""
    before_s = fake.busy_s()
    found = measure()
    each_s, any_s = (after - before for after, before in zip(fake.busy_s(), before_s, strict=True))
    return found, any_s / each_s


@on(FAKE)
async def one_slot_more() -> str:
    """A slot is added beside those that run; where it has no room, nothing of it is left."""
    async with harness.opened() as device:
        engine = LoadedEngine(_plan(device), primary_context(0), slots=1)
        before, failed = fake.census(), 0
        while True:
            fake.fail_allocations_from(failed + 1)
            try:
                engine.add_slot()
            except OutOfDeviceMemory:
                failed += 1
                fake.injected["out of memory"] += 1
                assert (fake.census(), engine.slots) == (before, 1), f"left over by allocation {failed}"
            else:
                break
            finally:
                fake.fail_allocations_from(0)
        assert failed >= 1 + 2 * 2, f"only {failed} allocations"  # a context, and two tensors on either side
        took_bytes = fake.census().device_bytes - before.device_bytes
        assert engine.slot_bytes == took_bytes, f"{engine.slot_bytes} counted of {took_bytes} bytes"
        rows = device.rows()
        for _ in range(2):  # on either slot
            assert harness.same(engine.infer({"x": rows})["scores"], device.models.answer(harness.SMALL, rows))
        engine.close()
        return f"each of {failed} allocations of a slot failed once"


@on(FAKE)
async def shapes() -> str:
    """TensorRT is told the shape of a batch only where it differs from that of the batch before."""
    async with harness.opened() as device:
        engine = LoadedEngine(_plan(device), primary_context(0), slots=1)
        rows = np.zeros((5, INPUTS), np.float32)
        for most in (5, 5, 5, 2, 2, 5):
            engine.infer({"x": rows[:most]})
        with engine.slot() as slot:
            told = slot._context._shapes_set
        engine.close()
        assert told == 3, f"told {told} times"
        return "told 3 times for 6 batches"


@on(FAKE, REAL)
async def swap() -> str:
    """A variant is loaded beside one that serves, and that one freed once its batches are done."""
    driver.slow_down(copies_s=0.0005, compute_s=0.0005)
    async with harness.opened() as device:
        await device.load(harness.SMALL)
        alone = driver.census()
        for _ in range(3):
            await asyncio.gather(device.check(harness.SMALL, 60), device.load(harness.LARGE))
            last = asyncio.gather(device.check(harness.LARGE, 30), device.check(harness.SMALL, 30))
            await asyncio.sleep(0)  # they are submitted, and run while …
            device.executor.unload(harness.LARGE)
            await last
            while not driver.is_back(alone):
                await asyncio.sleep(0.005)
        return "3 swaps, 360 batches meanwhile"


@on(FAKE)
async def cancelled_load() -> str:
    """A load that nobody waits for any more leaves nothing."""
    async with harness.opened() as device:
        await device.load(harness.SMALL)
        before = fake.census()
        fake.slow_down(compute_s=0.02)
        load = asyncio.create_task(device.load(harness.LARGE))
        await asyncio.sleep(0.03)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        while fake.census() == before:  # it may not have begun
            await asyncio.sleep(0.005)
        while fake.census() != before:
            await asyncio.sleep(0.005)
        await device.check(harness.SMALL, 5)
        return "a load given up"


@on(FAKE)
async def out_of_memory() -> str:
    """Whichever allocation of a load fails, all that it made is freed, and what served before serves on."""
    async with harness.opened() as device:
        await device.load(harness.SMALL)
        before, failed = fake.census(), 0
        while (error := await _load_without_memory(device, failed + 1)) is not None:
            failed += 1
            assert isinstance(error, OutOfDeviceMemory) or "can't load" in error.message, error
            assert fake.census() == before, f"left over by allocation {failed}: {fake.census()}"
            await device.check(harness.SMALL, 5)
        at_least = 1 + 2 * (1 + 2 * 2)  # weights; in each slot a context, and two tensors on either side
        assert failed >= at_least, f"only {failed} allocations in a load"
        await device.check(harness.LARGE, 20)
        return f"each of {failed} allocations of a load failed once"


async def _load_without_memory(
    device: "harness.Harness", allocation: int, key: VariantKey = harness.LARGE
) -> EngineError | None:
    """Why a load failed for which this allocation, and all after it, find no memory; None where it has fewer."""
    fake.fail_allocations_from(allocation)
    try:
        await device.load(key)
    except EngineError as error:
        fake.injected["out of memory"] += 1
        return error
    finally:
        fake.fail_allocations_from(0)
    return None


@on(FAKE)
async def too_large() -> str:
    """What has no room is refused before any of its slots is made."""
    async with harness.opened() as device:
        await device.load(harness.SMALL)
        before = fake.census()
        plan = make_plan(device.models.paths[harness.LARGE], 2**26)
        fake.fail_allocations_from(2)  # the first one after the weights would say so itself
        with pytest.raises(OutOfDeviceMemory) as refusal:
            LoadedEngine(plan, primary_context(0), slots=2)
        assert "2 slots of an engine take" in str(refusal.value), f"not counted before: {refusal.value}"
        fake.fail_allocations_from(0)
        assert fake.census() == before
        await device.check(harness.SMALL, 5)
        return "an engine that has no room"


@on(FAKE)
async def unservable() -> str:
    """A plan that can't be served is refused, and nothing of it is left while its error is still held."""
    async with harness.opened() as device:
        before = fake.census()
        fixed = harness.with_fixed_batch(device.models.paths[harness.SMALL].with_name("fixed.onnx"))
        plans = {b"\x08\0\0\0 garbage": "can't load", make_plan(fixed, 4): "first axis"}
        for plan, words in plans.items():
            with pytest.raises(EngineError, match=words) as held:
                LoadedEngine(plan, primary_context(0), slots=2)
            assert fake.census() == before, f"left over while an error is held: {fake.census()}"
            del held
        return "2 plans refused"


@on(FAKE)
async def leftover_frames() -> str:
    """Buffers are freed at once, though an error still holds the frames that knew them."""
    async with harness.opened() as device:
        engine = LoadedEngine(_plan(device), primary_context(0), slots=1)
        slot = engine.take()
        held = [*slot._inputs, *slot._outputs]
        engine.give_back(slot)
        engine.close()
        now = fake.census()
        assert (now.device_bytes, now.pinned_bytes) == (0, 0), f"left over: {now}"
        return f"{len(held)} buffers"


@on(FAKE)
async def refusals() -> str:
    """What doesn't fit is refused before anything is enqueued; of a batch, only those who don't fit."""
    async with harness.opened() as device:
        engine = LoadedEngine(_plan(device), primary_context(0), slots=1)
        fake.fail_launch(1, fake.LAUNCH_FAILED)  # nothing may run
        too_many = np.zeros((harness.MAX_ROWS + 1, INPUTS), np.float32)
        for rows in (too_many, too_many[:2].astype(np.float64), too_many[:2, :-1], too_many[:0]):
            with pytest.raises(EngineError) as refusal:
                engine.infer({"x": rows})
            assert not isinstance(refusal.value, DeviceLost), f"enqueued: {refusal.value}"
        fake.fail_launch(0, 0)
        engine.close()
        await device.load(harness.SMALL)
        rows = device.rows()
        parts = harness.parts_of(rows)
        wide = rows[:1].astype(np.float64)
        result = await device.submit(harness.SMALL, [*parts[:1], (1, (wide.tobytes(),)), *parts[1:]][:4])
        assert set(result.failures) == {1}, result.failures
        found = result.outputs[0][: parts[0][0]]
        assert harness.same(found, device.models.answer(harness.SMALL, rows)[: len(found)])
        return "4 inputs, and one of a batch"


@on(FAKE)
async def launch_failure() -> str:
    """After a failed launch all batches fail, also later ones, and the process lives, though nothing can be popped."""
    fake.have_stack_fail()
    return await _lose(lambda: fake.fail_launch(5, fake.LAUNCH_FAILED), "unspecified launch failure")


@on(FAKE)
async def lost_context() -> str:
    """The same where the context is lost by itself, and can still be pushed and popped."""
    return await _lose(lambda: fake.lose_context(fake.UNKNOWN), "unknown error")


@on(FAKE)
async def lost_while_loading() -> str:
    """Where the first batches of a load lose the context, it fails so, its owner is told, and what served is lost."""
    async with harness.opened(leaves_nothing=False) as device:
        await device.load(harness.SMALL)
        fake.fail_launch(1, fake.LAUNCH_FAILED)
        with pytest.raises(DeviceLost, match="unspecified launch failure"):
            await device.load(harness.LARGE)
        await asyncio.sleep(0)
        assert len(device.told) == 1, f"told {len(device.told)} times"
        with pytest.raises(DeviceLost):
            device.submit(harness.SMALL, harness.parts_of(device.rows()))
    fake.injected["unspecified launch failure"] += 1
    return "a context lost by a load"


@on(FAKE)
async def astray() -> str:
    """An input that leads a kernel astray loses the context, too."""
    async with harness.opened(leaves_nothing=False) as device:
        await device.load(harness.TABLE)
        poison = np.full((1, INPUTS), 99, np.float32)
        found = await asyncio.gather(device.submit(harness.TABLE, harness.parts_of(poison)), return_exceptions=True)
        assert isinstance(found[0], DeviceLost), found
        assert "illegal memory access" in found[0].message
        assert len(device.told) == 1
        fake.injected["illegal memory access"] += 1
        return "an illegal address"


@on(FAKE)
async def abandoned() -> str:
    """A device that hangs is given up at once, and nobody is told of its batches; once it goes on, all is freed."""
    async with harness.opened(slots=2) as device:
        await device.load(harness.SMALL)
        fake.slow_down(compute_s=0.5)
        running = [device.submit(harness.SMALL, harness.parts_of(device.rows())) for _ in range(6)]
        loading = asyncio.create_task(device.load(harness.LARGE))
        await asyncio.sleep(0.05)
        start_s = perf_counter()
        device.executor.abandon()
        took_s = perf_counter() - start_s
        assert took_s < 0.4, f"waited for {took_s:.2f} s"
        with pytest.raises(DeviceLost):
            await loading
        with pytest.raises(DeviceLost):
            device.submit(harness.SMALL, harness.parts_of(device.rows()))
        fake.slow_down()
        while fake.census() != CLEAN:
            await asyncio.sleep(0.005)
        assert not [each for each in running if each.done()]
        assert device.told == []
        return "6 batches and a load given up"


async def _lose(fault: Callable[[], None], words: str) -> str:
    async with harness.opened(slots=2, leaves_nothing=False) as device:
        await device.load(harness.SMALL)
        await device.check(harness.SMALL, 10)
        fake.slow_down(compute_s=0.005)
        running = [device.submit(harness.SMALL, harness.parts_of(device.rows())) for _ in range(20)]
        fault()
        ended = await asyncio.gather(*running, return_exceptions=True)
        lost = [each for each in ended if isinstance(each, BaseException)]
        assert lost, "no batch failed"
        assert all(isinstance(each, DeviceLost) and words in str(each) for each in lost), f"not DeviceLost: {lost}"
        assert isinstance(ended[-1], DeviceLost), "the last batch was answered"
        assert len(device.told) == 1, f"told {len(device.told)} times"
        assert device.executor.is_lost
        with pytest.raises(DeviceLost):
            device.submit(harness.SMALL, harness.parts_of(device.rows()))
        device.executor.unload(harness.SMALL)
        with pytest.raises(DeviceLost):
            await device.load(harness.LARGE)
    assert fake.census().pushed_contexts == 0
    fake.injected[words] += 1
    return f"{len(lost)} of {len(ended)} batches failed"


# --- multi-exit models


@on(FAKE, REAL)
async def exits() -> str:
    """Batches of a multi-exit model, more at once than slots, are answered as on the CPU, by the same exits."""
    driver.slow_down(copies_s=0.001, compute_s=0.0002)
    async with harness.opened(slots=3) as device:
        await device.load(harness.CHAIN)
        by_batch = await device.check_exits(harness.CHAIN, 150)
        found = np.concatenate(by_batch)
        shares = [int(np.mean(found == place) * 100) for place in range(1, harness.EXITS + 1)]
        assert min(shares) > 5, f"exits answer {shares} %"
        return f"150 batches in 3 slots, of which exits answer {shares} %"


@on(FAKE)
async def features() -> str:
    """No features are copied to the host: only inputs come from there, and only answers of exits go there."""
    async with harness.opened(slots=2) as device:
        await device.load(harness.CHAIN)
        before = np.array(fake.copied_bytes())
        found = np.concatenate(await device.check_exits(harness.CHAIN, 40))
        to_device, to_host, within = (np.array(fake.copied_bytes()) - before).tolist()
        item_bytes, going_on = 4, sum(int(np.count_nonzero(found > place)) for place in range(1, harness.EXITS))
        assert to_device == len(found) * INPUTS * item_bytes, f"{to_device} bytes came from the host"
        assert to_host == (len(found) + going_on) * CLASSES * item_bytes, f"{to_host} bytes went to the host"
        assert within == going_on * WIDTH * item_bytes, f"{within} bytes of features were copied"
        return f"{within} bytes of features of {going_on} rows stayed on the device"


@on(FAKE)
async def handed_on() -> str:
    """A stage may hand on what it takes: TensorRT calls such an input otherwise than its file does."""
    async with harness.opened(slots=2) as device:
        await device.load(harness.HANDING)
        found = np.concatenate(await device.check_exits(harness.HANDING, 40))
        reached = int(np.count_nonzero(found == harness.EXITS))
        assert reached, "no row got to the last stage"
        return f"{reached} of {len(found)} rows got to the stage that takes it"


@on(FAKE)
async def exits_at_once() -> str:
    """While one slot decides between two stages, or copies, another computes; by the device's clock."""
    return await _measured(_exits_at_once)


async def _exits_at_once() -> str:
    ratios = []
    for slots in (1, 2):
        async with harness.opened(slots=slots, leaves_nothing=False) as device:
            await device.load(harness.WHOLE)
            fake.slow_down(copies_s=DELAY_S, compute_s=DELAY_S)
            before_s = fake.busy_s()
            await device.check_exits(harness.WHOLE, 20)
            each_s, any_s = (after - before for after, before in zip(fake.busy_s(), before_s, strict=True))
            ratios.append(any_s / each_s)
            fake.slow_down()
    assert ratios[0] > 0.99, f"one slot overlaps with itself: {ratios[0]:.2f}"
    assert ratios[1] < 0.8, f"no overlap: two slots take {ratios[1]:.2f} of the time of one"
    return f"two slots take {ratios[1]:.2f} of the time of one"


@on(FAKE, REAL)
async def stages_timed() -> str:
    """The device's own time of computing is that of all stages, without copies."""
    async with harness.opened() as device:
        with _loaded_chain(device, harness.WHOLE) as chain:
            copy_s, min_s = driver.slow_down(copies_s=0.01, compute_s=0.01)
            inputs = {"x": device.rows(harness.WHOLE)}
            start_s = perf_counter()
            compute_s = chain.compute_s(inputs)
            total_s = perf_counter() - start_s
            assert compute_s >= harness.EXITS * min_s, "computing is too short"
            assert compute_s <= total_s - (1 + harness.EXITS) * copy_s, "copies are in the time of computing"
        return f"{compute_s * 1e3:.1f} of {total_s * 1e3:.1f} ms computing"


@on(FAKE, REAL)
async def leaving() -> str:
    """A request that is due before the next stage ends has its answer before the rest of its batch goes on."""
    async with harness.opened() as device:
        await device.load(harness.WHOLE)
        rows, now_s, told = device.models.rows_for_exits[:5], monotonic(), list[tuple[list[int], BatchResult]]()
        slow = tuple(ExitProfile(points=(StagePoint(1, *(each_s,) * 4),)) for each_s in (1e-3, 1e3, 1e-3))
        bounds = ExitBounds((now_s + 600, now_s + 1e6), (2, 3), slow)
        batch = device.submit(
            harness.WHOLE, harness.parts_of(rows), bounds, lambda parts, left: told.append(([*parts], left))
        )
        batch.add_done_callback(lambda _: told.append(([], batch.result())))
        whole = await batch
        await asyncio.sleep(0)
        (parts, left), (others, _) = told
        assert (parts, others) == ([0], []), f"{parts} left before {others}"
        first = device.models.first_exit(rows)
        assert harness.same(left.outputs[0], first[:2]), "wrong answers"
        assert harness.same(whole.outputs[0][2:], device.models.answer(harness.WHOLE, rows)[2:]), "wrong answers"
        cut = [spec.name for spec in NOTES].index(CUT_NOTE)
        assert whole.notes[0].tolist() == [1, 1, 3, 3, 3]
        assert whole.notes[cut].tolist() == [True, True, False, False, False]
        return "2 of 5 rows left behind the first exit"


@on(FAKE)
async def shared_stages() -> str:
    """Models of the same stages have these once, whichever is loaded or freed first."""
    async with harness.opened(slots=2) as device:
        empty = fake.census()
        await device.load(harness.CHAIN)
        alone = fake.census()
        await device.load(harness.WHOLE)
        assert fake.census() == alone, f"loaded twice: {fake.census()}"
        await asyncio.gather(device.check_exits(harness.CHAIN, 20), device.check_exits(harness.WHOLE, 20))
        device.executor.unload(harness.CHAIN)
        await device.check_exits(harness.WHOLE, 20)
        assert fake.census() == alone, f"freed too early: {fake.census()}"
        device.executor.unload(harness.WHOLE)
        while fake.census() != empty:
            await asyncio.sleep(0.005)
        return "3 stages of 2 models"


@on(FAKE)
async def exits_out_of_memory() -> str:
    """Whichever allocation of any stage fails, all stages are freed, and what served before serves on."""
    async with harness.opened() as device:
        await device.load(harness.SMALL)
        before, failed = fake.census(), 0
        while (error := await _load_without_memory(device, failed + 1, harness.CHAIN)) is not None:
            failed += 1
            assert isinstance(error, OutOfDeviceMemory) or "can't load" in error.message, error
            assert fake.census() == before, f"left over by allocation {failed}: {fake.census()}"
            await device.check(harness.SMALL, 2)
        features, answers = 2 * (harness.EXITS - 1), 2 * (1 + harness.EXITS)  # in one slot; the latter on either side
        at_least = harness.EXITS + 2 * (harness.EXITS + features + answers)
        assert failed >= at_least, f"only {failed} allocations in a load"
        await device.check_exits(harness.CHAIN, 20)
        return f"each of {failed} allocations of a load failed once"


@on(FAKE)
async def exits_too_large() -> str:
    """The memory of all stages is counted before any slot is made."""
    async with harness.opened() as device:
        await device.load(harness.SMALL)
        before = fake.census()
        small, large = (make_plan(device.models.stages[place], rows) for place, rows in ((0, 2**25), (1, 2**25)))
        buffers_bytes = (INPUTS + CLASSES + WIDTH + WIDTH + CLASSES + WIDTH) * 4 * 2**25
        slot_bytes = buffers_bytes + 2 * WORKSPACE_BYTES
        fake.fail_allocations_from(3)  # the first one after the weights would say so itself
        with pytest.raises(OutOfDeviceMemory) as refusal:
            LoadedStages([small, large], primary_context(0), slots=2)
        counted = f"2 slots of an engine take {format_size(2 * slot_bytes)} of"
        assert counted in str(refusal.value), f"not counted before: {refusal.value}"
        fake.fail_allocations_from(0)
        assert fake.census() == before
        await device.check(harness.SMALL, 5)
        return "two stages that have no room"


@on(FAKE)
async def exits_refused() -> str:
    """Of a batch of a multi-exit model only requests that don't fit fail; stages that don't fit are refused."""
    async with harness.opened() as device:
        await device.load(harness.CHAIN)
        rows = device.models.rows_for_exits[:4]
        parts = harness.parts_of(rows)
        wide = rows[:1].astype(np.float64)
        result = await device.submit(harness.CHAIN, [parts[0], (1, (wide.tobytes(),)), parts[1]])
        assert set(result.failures) == {1}, result.failures
        wanted = device.models.answer(harness.CHAIN, rows)
        assert harness.same(result.outputs[0][[0, 1, 3, 4]], wanted)
        before = fake.census()
        plans = device.models.plan(harness.WHOLE, device.models.paths[harness.WHOLE])
        assert isinstance(plans, ChainPlans)
        device.models.replaced[harness.WHOLE] = replace(plans, stages=plans.stages[::-1])
        with pytest.raises(EngineError, match=re.escape(f"{harness.WHOLE}: Stage 1 gives no")):
            await device.load(harness.WHOLE)
        assert fake.census() == before, f"left over: {fake.census()}"
        return "one request of a batch, and stages in the wrong order"


@on(FAKE)
async def lost_between_stages() -> str:
    """A context that is lost in a later stage fails the batch, and its owner is told once."""
    async with harness.opened(slots=2, leaves_nothing=False) as device:
        await device.load(harness.WHOLE)
        fake.fail_launch(2, fake.LAUNCH_FAILED)
        batch = device.submit(harness.WHOLE, harness.parts_of(device.rows(harness.WHOLE)))
        (lost,) = await asyncio.gather(batch, return_exceptions=True)
        assert isinstance(lost, DeviceLost), f"not DeviceLost: {lost}"
        assert "unspecified launch failure" in str(lost), lost
        assert len(device.told) == 1, f"told {len(device.told)} times"
        with pytest.raises(DeviceLost):
            device.submit(harness.WHOLE, harness.parts_of(device.rows(harness.WHOLE)))
    assert fake.census().pushed_contexts == 0
    fake.injected["unspecified launch failure"] += 1
    return "a context lost in the second stage"


@contextmanager
def _loaded_chain(device: "harness.Harness", key: VariantKey) -> Iterator[LoadedChain]:
    plans = device.models.plan(key, device.models.paths[key])
    assert isinstance(plans, ChainPlans)
    with closing(LoadedStages(plans.stages, primary_context(0), slots=1)) as stages:
        yield LoadedChain(stages, plans, primary_context(0))


def _plan(device: "harness.Harness") -> bytes:
    plan = device.models.plan(harness.SMALL, device.models.paths[harness.SMALL])
    assert isinstance(plan, bytes)
    return plan


if __name__ == "__main__":
    said = asyncio.run(SCENARIOS[sys.argv[1]]())
    figures = {"said": said, **drivers.made(), "faults": fake.injected if drivers.DEVICE == FAKE else {}}
    print(json.dumps(figures))  # noqa: T201 - for the test, and whoever runs it by hand
