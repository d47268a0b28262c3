"""A batch that fails: who fails, who is answered, and how many runs it takes to find out."""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exit_nets import loaded, stages_that_fail
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import INPUTS, looking_up

from proteus_cli.backends.base import Runner
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import EngineBroken, EngineError
from proteus_cli.serving.devices.cpu import CpuEngine
from proteus_cli.serving.devices.executor import BatchResult

CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
POISON = 99.0


class Counting:
    """A runner that counts its runs, and fails on all of them once it is broken."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.signature, self.memory_bytes = runner.signature, runner.memory_bytes
        self.runs = 0
        self.is_broken = False

    def infer(self, inputs: Any) -> Any:
        self.runs += 1
        if self.is_broken:
            raise EngineError("the device is gone")
        return self._runner.infer(inputs)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with OnnxRuntime(CPU).runner(looking_up(tmp_path_factory.mktemp("models") / "table.onnx")) as table:
        yield table


def part(*values: float) -> tuple[int, tuple[bytes]]:
    """Rows, each of which looks up that value."""
    return len(values), (np.repeat(np.array(values, np.float32), INPUTS).tobytes(),)


def run(runner: Runner, parts: Sequence[tuple[int, tuple[bytes]]]) -> tuple[Any, Counting]:
    counting = Counting(runner)
    engine = CpuEngine(counting, ExitStack(), 4)
    return engine.run(parts, sum(rows for rows, _ in parts)), counting


def test_a_batch_that_succeeds_is_run_once(runner: Runner) -> None:
    result, counting = run(runner, [part(1), part(2, 3), part(4)])
    assert result.outputs[0][:, 0].tolist() == [3, 6, 9, 12]
    assert (result.failures, counting.runs) == ({}, 1)


@given(st.lists(st.lists(st.sampled_from([1.0, 2.0, 3.0, POISON]), min_size=1, max_size=3), min_size=2, max_size=17))
@settings(max_examples=60, deadline=None)
def test_only_the_parts_fail_that_fail_by_themselves(runner: Runner, rows: list[list[float]]) -> None:
    poisoned = {place for place, values in enumerate(rows) if POISON in values}
    parts = [part(*values) for values in rows]
    if len(poisoned) == len(rows):
        with pytest.raises(EngineError, match="the model failed"):
            run(runner, parts)
        return
    result, counting = run(runner, parts)
    assert set(result.failures) == poisoned
    assert all("99" in str(error) for error in result.failures.values())
    first = 0
    for place, values in enumerate(rows):
        found = result.outputs[0][first : first + len(values), 0]
        first += len(values)
        if place not in poisoned:
            assert found.tolist() == [value * 3 for value in values]
    assert len(result.outputs[0]) == first
    halvings = math.ceil(math.log2(len(rows)))
    assert counting.runs <= min(2 * len(rows), 2 + 2 * halvings * len(poisoned))


def test_a_batch_of_parts_that_all_fail_costs_two_runs_for_each(runner: Runner) -> None:
    counting = Counting(runner)
    with pytest.raises(EngineError):
        CpuEngine(counting, ExitStack(), 4).run([part(POISON)] * 32, 32)
    assert counting.runs == 64  # 63 parts of the batch, and one to see whether the model is to blame


def test_a_broken_engine_is_not_tried_with_each_part(runner: Runner) -> None:
    counting = Counting(runner)
    counting.is_broken = True
    engine = CpuEngine(counting, ExitStack(), 4)
    with pytest.raises(EngineBroken, match="the device is gone"):
        engine.run([part(1)] * 32, 32)
    assert counting.runs == 2
    counting.is_broken = False
    assert engine.run([part(1)] * 32, 32).failures == {}


def test_a_batch_of_one_part_that_fails_is_not_run_again(runner: Runner) -> None:
    """Only what could be done before is, to see whether the request is to blame."""
    counting = Counting(runner)
    with pytest.raises(EngineError) as raised:
        CpuEngine(counting, ExitStack(), 4).run([part(POISON)], 1)
    assert counting.runs == 2
    assert not isinstance(raised.value, EngineBroken)


def test_outputs_with_a_wrong_number_of_rows_are_an_error(runner: Runner, tmp_path: Path) -> None:
    class Short(Counting):
        def infer(self, inputs: Any) -> Any:
            return {name: values[:-1] for name, values in super().infer(inputs).items()}

    with pytest.raises(EngineError, match="gave 1 row for the 2"):
        CpuEngine(Short(runner), ExitStack(), 4).run([part(1, 2)], 2)


# --- multi-exit models

FOREVER, NEVER_S = 1e12, -1e12  # by `time.monotonic`: in any time, and before it began
ONE_S = StagePoint(1, 1.0, 1.0), StagePoint(8, 1.0, 1.0)


def test_parts_that_are_run_again_keep_their_own_bounds(tmp_path: Path) -> None:
    """The chain takes each row to its end, but for what is late, or has energy for two stages of 1 J only."""
    parts = [part(1), part(POISON), part(2, 3), part(4)]
    bounds = ExitBounds(
        [FOREVER, FOREVER, NEVER_S, FOREVER],
        [1, 1, 2, 1],
        [ExitProfile(points=ONE_S)] * 3,
        power_w=1.0,
        max_energy_j=[math.inf, math.inf, math.inf, 2.0],
    )
    with loaded(stages_that_fail(tmp_path), "exit >= 3") as runner:
        result = CpuEngine(runner, ExitStack(), 8).run(parts, 5, bounds)
    exits, _, cut, *_ = result.notes
    assert list(result.failures) == [1]
    assert exits.tolist() == [3, 0, 1, 1, 2]
    assert cut.tolist() == [False, False, True, True, True]


def test_parts_that_are_run_again_ask_for_their_own_confidence(tmp_path: Path) -> None:
    bounds = ExitBounds(
        [FOREVER] * 4, [1] * 4, [ExitProfile(points=ONE_S)] * 3, min_confidence=[-math.inf, -math.inf, 0, math.inf]
    )
    with loaded(stages_that_fail(tmp_path), "exit >= 1") as runner:
        result = CpuEngine(runner, ExitStack(), 8).run([part(POISON), part(1), part(2), part(3)], 4, bounds)
    assert result.notes[0].tolist() == [0, 1, 1, 3]


def test_parts_that_succeed_leave_before_the_next_are_run(tmp_path: Path) -> None:
    """Of five parts, one fails: halves are the first two, the third, and the fourth and fifth."""
    told = list[tuple[Sequence[int], BatchResult]]()
    bounds = ExitBounds([FOREVER] * 5, [1, 2, 1, 1, 1], [ExitProfile(points=ONE_S)] * 3)
    with loaded(stages_that_fail(tmp_path), "exit >= 3") as runner:
        engine = CpuEngine(runner, ExitStack(), 8)
        parts = [part(1), part(2, 3), part(POISON), part(4), part(5)]
        result = engine.run(parts, 6, bounds, lambda *each: told.append(each))
    assert [places for places, _ in told] == [[0, 1], [3, 4]]
    for (_, left), rows in zip(told, (slice(0, 3), slice(4, 6)), strict=True):
        assert 0 < left.ended_s <= result.ended_s
        for values, of_all in zip(left.given, result.given, strict=True):
            np.testing.assert_array_equal(values, of_all[rows])


def test_what_leaves_a_half_does_so_by_its_place_in_the_whole(tmp_path: Path) -> None:
    """The last stage takes longer than the fourth part has, by the profile, and not than the third has."""
    told = list[tuple[Sequence[int], BatchResult]]()
    now_s = time.monotonic()
    slow = ExitProfile(points=(StagePoint(1, 3600.0, 3600.0), StagePoint(8, 3600.0, 3600.0)))
    quick = ExitProfile(points=(StagePoint(1, 1e-9, 1e-9), StagePoint(8, 1e-9, 1e-9)))
    bounds = ExitBounds([FOREVER, FOREVER, FOREVER, now_s + 1800.0], [1] * 4, [quick, quick, slow])
    with loaded(stages_that_fail(tmp_path), "exit >= 3") as runner:
        engine = CpuEngine(runner, ExitStack(), 8)
        parts = [part(1), part(POISON), part(2), part(3)]
        result = engine.run(parts, 4, bounds, lambda *each: told.append(each))
    assert [[*places] for places, _ in told] == [[0], [3], [2, 3]]
    assert told[1][1].notes[0].tolist() == [2]
    assert result.notes[0].tolist() == [3, 0, 3, 2]
