"""How much at once a device should do: levels, samples in virtual time, and what they say together."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from builders import make_profile
from tiny import Tiny
from virtual_loop import VirtualLoop

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import ArtefactError, EngineError, UsageError
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult
from proteus_cli.store import write_json
from proteus_cli.studies.concurrency.drafting import ConcurrencyQuestion, concurrency_draft
from proteus_cli.studies.concurrency.knee import ScatterSample, fit_knee
from proteus_cli.studies.concurrency.measuring import ConcurrencyCell, levels_of, sample, ways_of
from proteus_cli.studies.results import ConcurrencyResult, StudiedWay, concluded

KEY = VariantKey("f", "v")
ROWS, BATCH_S = 4, 0.01
BATCH = Batch(KEY, [], ROWS)


class SlottedExecutor:
    """Runs so many batches at once, and then a while passes before it can run the next one in that slot."""

    runs_inline = can_give_way = False
    pid = None

    def __init__(self, slots: int, pause_s: float = 0.0, fails_at: int | None = None) -> None:
        self._free_s = [0.0] * slots
        self._pause_s, self._fails_at, self.runs = pause_s, fails_at, 0

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        loop = asyncio.get_running_loop()
        self.runs += 1
        slot = self._free_s.index(min(self._free_s))
        waits = self._free_s[slot] > loop.time()  # what waits in the device needs no hand-over
        end_s = max(loop.time() + (0.0 if waits else self._pause_s), self._free_s[slot]) + BATCH_S
        self._free_s[slot] = end_s
        result: BatchResult | Exception = BatchResult((), BATCH_S)
        if self.runs == self._fails_at:
            result = EngineError("it does not run")
        loop.call_at(end_s, done, result)


def sampled(make: Callable[[], SlottedExecutor], in_flight: int, devices: int = 1) -> ScatterSample:
    async def in_loop() -> ScatterSample:
        return await sample([make() for _ in range(devices)], BATCH, in_flight, 0.2, 7)  # type: ignore[misc]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(in_loop())


@pytest.mark.parametrize("in_flight", [1, 2, 3, 16])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_sample_has_the_throughput_and_the_time_of_a_closed_loop(slots: int, in_flight: int) -> None:
    """Little's law: batches in flight are throughput times service time, whatever waits."""
    found = sampled(lambda: SlottedExecutor(slots), in_flight)
    assert found.in_flight == 7
    assert found.throughput == pytest.approx(min(slots, in_flight) * ROWS / BATCH_S)
    assert found.throughput * found.service_s == pytest.approx(in_flight * ROWS)


def test_devices_are_added_up_and_hand_overs_count() -> None:
    alone = sampled(lambda: SlottedExecutor(1, pause_s=BATCH_S), 1)
    assert alone.throughput == pytest.approx(ROWS / (2 * BATCH_S))
    assert sampled(lambda: SlottedExecutor(1, pause_s=BATCH_S), 2, devices=3).throughput == pytest.approx(
        3 * ROWS / BATCH_S
    )


def test_a_batch_that_fails_ends_the_sample() -> None:
    with pytest.raises(EngineError, match="it does not run"):
        sampled(lambda: SlottedExecutor(1, fails_at=5), 2)


def test_where_a_batch_of_one_device_fails_others_begin_no_more_after_the_sample() -> None:
    failing, good = SlottedExecutor(1, fails_at=1), SlottedExecutor(1)

    async def in_loop() -> tuple[int, int]:
        with pytest.raises(EngineError, match="it does not run"):
            await sample([failing, good], BATCH, 2, 0.2, 7)  # type: ignore[list-item]
        runs = good.runs
        await asyncio.sleep(1.0)
        return runs, good.runs

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        at_the_end, later = runner.run(in_loop())
    assert at_the_end == later


CPU = Device("cpu0", "c", "cpu", "a CPU", 2**30, cores=(0, 1, 2, 3, 4))


def test_what_varies_on_which_device() -> None:
    one_core = make_profile("cpu0").device
    gpu = Device("gpu0", "g", "gpu", "a GPU", 2**30)
    assert ways_of(one_core, emulated=False) == ("thread", "process")
    assert ways_of(CPU, emulated=False) == ("thread", "process", "threads", "split")
    assert ways_of(gpu, emulated=False) == ("process",)
    assert ways_of(gpu, emulated=True) == ("emulated",)


def test_levels_of_a_device() -> None:
    in_flight = levels_of("thread", CPU, 1, None)
    assert [(level.number, level.in_flight, level.devices) for level in in_flight] == [
        (n, n, (CPU,)) for n in (1, 2, 3)
    ]
    assert [level.number for level in levels_of("process", CPU, 4, None)] == [1, 2, 3, 4, 5, 6]
    assert [level.number for level in levels_of("process", CPU, 1, 12)] == [1, 2, 4, 8, 12]
    assert [level.devices[0].cores for level in levels_of("threads", CPU, 1, None)] == [
        (0,), (0, 1), (0, 1, 2, 3), (0, 1, 2, 3, 4)
    ]  # fmt: skip
    split = levels_of("split", CPU, 1, None)
    assert [level.number for level in split] == [1, 2, 4, 5]
    assert [device.cores for device in split[1].devices] == [(0, 1), (2, 3)]
    ids = [device.id for level in split for device in level.devices]
    assert len(set(ids)) == len(ids)


def result(way: StudiedWay, curve: dict[int, float], slots: int = 1) -> ConcurrencyResult:
    samples = tuple(ScatterSample(n, qps, n / qps) for n, qps in curve.items() for _ in range(3))
    knee = fit_knee(samples, np.random.default_rng(0))
    return ConcurrencyResult("f", "v", ROWS, way, 4, slots, knee, samples)


def test_what_to_use_is_what_the_neediest_variant_needs() -> None:
    found = concluded([
        result("process", {1: 10, 2: 19, 3: 20, 4: 20}, slots=4), result("process", {1: 10, 2: 10}, slots=4),
        result("threads", {1: 10, 2: 18, 4: 18}), result("threads", {1: 10, 2: 19, 4: 30}),
        result("split", {1: 10, 2: 14, 4: 14}), result("split", {1: 10, 2: 14, 4: 20}),
    ])  # fmt: skip
    assert (found.slots, found.threads, found.devices) == (3, 4, 2)
    assert concluded([result("thread", {1: 10, 2: 12, 3: 12})]).slots == 1  # the second one waits in the device
    assert result("split", {1: 10, 2: 14}).gain(2, 1) == pytest.approx(0.4)


def test_a_new_profile_is_a_new_question_of_emulated_devices_and_a_new_model_is_refused(tiny: Tiny) -> None:
    of_one = ConcurrencyQuestion("cpu0", (VariantKey("shapes", "shapes-s"),), emulated=True)
    before = concurrency_draft(tiny.place, of_one).inputs
    assert concurrency_draft(tiny.place, of_one).inputs == before
    profile = tiny.place.profile("cpu0")
    write_json(tiny.place.profile_path("cpu0"), msgspec.structs.replace(profile, variants=profile.variants[:2]))
    assert concurrency_draft(tiny.place, of_one).inputs != before
    tiny.model("shapes-s").write_bytes(tiny.model("shapes-l").read_bytes())
    with pytest.raises(ArtefactError, match="another"):
        concurrency_draft(tiny.place, replace(of_one, emulated=False))


def test_questions_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="Nothing was profiled"):
        ConcurrencyQuestion("cpu0", ())
    with pytest.raises(UsageError, match="From 2 to 16"):
        ConcurrencyQuestion("cpu0", (KEY,), in_flight=1)
    assert ConcurrencyCell(KEY, 8, "split").name("v") == "v ×8, devices of the same cores"
