"""Devices that are measured are processes of their own; with slots, their batches run at once."""

import multiprocessing
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tiny import Tiny

from proteus_cli.backends.base import NamedArrays, Signature, TensorSpec
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.studies.sharing.bench import (
    STREAM,
    TURN_BYTES,
    Arrival,
    Engine,
    Opening,
    ProcessBench,
    Ran,
    Slice,
    Stream,
    Work,
    Workload,
    busy_clock,
    opened_bench,
    run_slice,
    stream_bytes,
)
from proteus_cli.studies.sharing.drafting import hardware_devices, sees_mps

LATE_S = 30.0
"""A slice whose batches have all arrived ends before that, however late its process begins."""
SMALL, LARGE = VariantKey("shapes", "shapes-s"), VariantKey("shapes", "shapes-l")


def test_a_device_runs_slices_in_its_process_until_that_is_lost(tiny: Tiny) -> None:
    profile = tiny.place.profile("cpu0")
    found = hardware_devices(tiny.place, tiny.place.catalog(), profile, dict.fromkeys((SMALL, LARGE), (1, 4)))
    assert found.names == ("cpu0", "cpu1")
    with found.opened() as bench:
        both = Workload((Work(SMALL, 1), Work(LARGE, 4), STREAM))
        (ran,) = bench.run([both], 0.05)
        assert [each.work for each in ran] == [turn % 3 for turn in range(len(ran))]
        assert all(0 <= each.began_s <= each.ended_s for each in ran)
        assert all(each.batch_s > 0 for each in ran)
        arriving = Workload((Work(SMALL, 1),), (Arrival(0.01, 0), Arrival(0.02, 0)))
        (ran,) = bench.run([arriving], LATE_S)
        assert [each.arrived_s for each in ran] == [0.01, 0.02]
        with pytest.raises(KeyError) as raised:
            bench.run([Workload((Work(SMALL, 3),), (Arrival(0.0, 0),))], LATE_S)
        assert "in run_workload" in raised.value.__notes__[0]
        assert bench.run([arriving], LATE_S)[0], "an error of a slice is no error of the next"
        devices = [each for each in multiprocessing.active_children() if each.pid is not None]
        assert len(devices) == 2
        for device in devices:
            device.kill()
        for _ in range(2):
            with pytest.raises(DeviceLost, match="cpu0 is lost"):
                bench.run([arriving], LATE_S)


def test_a_slice_that_one_device_cannot_begin_leaves_no_answer_of_another_for_the_next_slice() -> None:
    (first, its), (second, gone) = multiprocessing.Pipe(), multiprocessing.Pipe()
    gone.close()
    bench = ProcessBench({"cpu0": first, "cpu1": second}, 1)
    workload = Workload((STREAM,))
    for began_s in (1.0, 2.0):
        its.send([Ran(0, 0.0, began_s, 3.0, 0.1)])
        if began_s == 1.0:
            with pytest.raises(DeviceLost, match="cpu1 is lost"):
                bench.run([workload, workload], 0.0)
    assert [each.began_s for each in bench.run([workload], 0.0)[0]] == [2.0]
    for connection in (first, second, its):
        connection.close()


def test_an_engine_that_does_not_load_is_told_as_it_was(tiny: Tiny) -> None:
    device = tiny.place.profile("cpu0").device
    opening = Opening(device, tiny.place.built_dir, 1, (Engine(SMALL, tiny.root / "none.onnx", (1,)),), 0)
    with pytest.raises(EngineError) as raised, opened_bench([opening]):
        pass
    assert raised.value.hint


class MeetingRunner:
    """A runner of which two batches run at once, or none ends."""

    signature = Signature((TensorSpec("x", np.dtype(np.float32), (1,)),), ())
    memory_bytes = 0

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2, timeout=30)

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        self._barrier.wait()
        return inputs


def test_slots_run_their_batches_at_once_and_begin_with_different_works() -> None:
    runner = MeetingRunner()
    works = (Work(SMALL, 1), Work(LARGE, 1))
    inputs = {"x": np.zeros((1, 1), np.float32)}
    gpu = Device("gpu0", "gpu", "gpu", "a GPU", 0)
    arrivals = tuple(Arrival(0.0, place % 2) for place in range(6))
    runs = dict.fromkeys(works, partial(runner.infer, inputs))
    ran = run_slice(Slice(Workload(works, arrivals), 0.0, 1e12), runs, 2, busy_clock(gpu))
    assert sorted(each.work for each in ran) == [0, 0, 0, 1, 1, 1]


def test_on_one_core_only_the_time_with_the_core_counts() -> None:
    one, two = (Device("cpu0", "cpu", "cpu", "a CPU", 0, cores) for cores in ((0,), (0, 1)))
    assert busy_clock(one) is not busy_clock(two)


def test_a_stream_reads_all_of_its_memory_in_turns(tmp_path: Path) -> None:
    stream = Stream(TURN_BYTES + 80)
    assert [stream.read_on() for _ in range(3)] == [TURN_BYTES // 8, 10, TURN_BYTES // 8]
    for index, size in enumerate(("32K", "2048K", "300M", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert stream_bytes(16 * 2**30, tmp_path) == 600 * 2**20
    assert stream_bytes(16 * 2**30, tmp_path / "none") == 128 * 2**20
    (tmp_path / "index2" / "size").write_text("1G")
    assert stream_bytes(16 * 2**30, tmp_path) == 2**30
    assert stream_bytes(80 * 2**20, tmp_path) == 10 * 2**20


def test_mps_is_seen_where_its_pipe_is(tmp_path: Path) -> None:
    assert not sees_mps({}, tmp_path)
    (tmp_path / "control").touch()
    assert sees_mps({}, tmp_path)
    assert not sees_mps({"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "elsewhere")}, tmp_path)
