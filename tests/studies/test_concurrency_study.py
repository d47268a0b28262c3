"""How many batches at once a device should have: samples in virtual time, and what cells say together."""

import asyncio
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from tiny import Tiny
from virtual_loop import VirtualLoop

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import ArtefactError, EngineError, UsageError
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult
from proteus_cli.store import write_json
from proteus_cli.studies.concurrency import (
    ConcurrencyQuestion,
    ConcurrencyResult,
    ScatterSample,
    concluded,
    concurrency_draft,
    fit_knee,
    sample,
)

KEY = VariantKey("f", "v")
ROWS, BATCH_S = 4, 0.01


class SlottedExecutor:
    """Runs as many batches at once as it has slots; a slot pauses before its next batch."""

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


def sampled(executor: SlottedExecutor, in_flight: int) -> ScatterSample:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(sample(executor, Batch(KEY, [], ROWS), in_flight, 0.2))  # type: ignore[arg-type]


@pytest.mark.parametrize("in_flight", [1, 2, 3, 16])
@pytest.mark.parametrize("slots", [1, 2, 3])
def test_a_sample_has_the_throughput_and_the_time_of_a_closed_loop(slots: int, in_flight: int) -> None:
    """Little's law: batches in flight are throughput times service time, whatever waits."""
    found = sampled(SlottedExecutor(slots), in_flight)
    assert found.throughput == pytest.approx(min(slots, in_flight) * ROWS / BATCH_S)
    assert found.throughput * found.service_s == pytest.approx(in_flight * ROWS)


def test_hand_overs_count_and_a_batch_that_fails_ends_the_sample() -> None:
    assert sampled(SlottedExecutor(1, pause_s=BATCH_S), 1).throughput == pytest.approx(ROWS / (2 * BATCH_S))
    with pytest.raises(EngineError, match="it does not run"):
        sampled(SlottedExecutor(1, fails_at=5), 2)


@pytest.mark.parametrize(
    ("slots", "in_flight", "levels"),
    [(1, None, [1, 2, 3]), (4, None, [1, 2, 3, 4, 5, 6]), (1, 12, [1, 2, 4, 8, 12])],
)
def test_levels_of_a_device(slots: int, in_flight: int | None, levels: list[int]) -> None:
    assert ConcurrencyQuestion("cpu0", (KEY,), in_flight=in_flight).levels(slots) == levels


def test_slots_to_use_are_what_the_neediest_variant_needs() -> None:
    def result(curve: dict[int, float], slots: int) -> ConcurrencyResult:
        samples = tuple(ScatterSample(n, qps, n / qps) for n, qps in curve.items() for _ in range(3))
        return ConcurrencyResult("f", "v", ROWS, "process", slots, fit_knee(samples, np.random.default_rng(0)), samples)

    assert concluded([result({1: 10, 2: 19, 3: 20, 4: 20}, 4), result({1: 10, 2: 10}, 4)]).slots == 3
    assert concluded([result({1: 10, 2: 12, 3: 12}, 1)]).slots == 1  # the second one waits in the device


def test_a_new_profile_is_a_new_question_of_emulated_devices_and_a_new_model_is_refused(tiny: Tiny) -> None:
    of_one = ConcurrencyQuestion("cpu0", (VariantKey("shapes", "shapes-s"),), emulated=True)
    before = concurrency_draft(tiny.place, of_one).inputs
    assert concurrency_draft(tiny.place, of_one).inputs == before
    profile = tiny.place.profile("cpu0")
    write_json(tiny.place.profile_path("cpu0"), msgspec.structs.replace(profile, variants=profile.variants[:2]))
    assert concurrency_draft(tiny.place, of_one).inputs != before
    measured = replace(of_one, emulated=False)
    assert [job.key.partition(", ")[2] for job in concurrency_draft(tiny.place, measured).jobs] == [
        "in flight in a thread", "in flight in a process"
    ]  # fmt: skip
    tiny.model("shapes-s").write_bytes(tiny.model("shapes-l").read_bytes())
    with pytest.raises(ArtefactError, match="another"):
        concurrency_draft(tiny.place, measured)


def test_questions_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="Nothing was profiled"):
        ConcurrencyQuestion("cpu0", ())
    with pytest.raises(UsageError, match="From 2 to 16"):
        ConcurrencyQuestion("cpu0", (KEY,), in_flight=1)
