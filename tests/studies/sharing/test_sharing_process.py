"""Devices that are measured are processes of their own; with slots, their batches run at once."""

import os
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from tiny import Tiny

from proteus_cli.backends.base import NamedArrays, Signature, TensorSpec
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import DeviceLost, EngineError
from proteus_cli.serving.devices.process.channel import Channel
from proteus_cli.serving.devices.process.messages import SentError
from proteus_cli.studies.sharing.cells import BatchSizes
from proteus_cli.studies.sharing.child import MeasuredDevice, busy_clock
from proteus_cli.studies.sharing.drafting import hardware_bench, sees_mps
from proteus_cli.studies.sharing.processes import (
    COMMANDS,
    EVENTS,
    BenchCommand,
    DeviceChannel,
    Done,
    ProcessBench,
    RunSlice,
    opened_bench,
)
from proteus_cli.studies.sharing.slices import (
    STREAM,
    TURN_BYTES,
    Arrival,
    Ran,
    Stream,
    Work,
    Workload,
    largest_cache_bytes,
    stream_bytes,
)

LATE_S = 30.0
"""A slice whose batches have all arrived ends before that, however late its process begins."""
SMALL, LARGE = VariantKey("shapes", "shapes-s"), VariantKey("shapes", "shapes-l")


def test_a_device_runs_slices_in_its_process_until_that_is_lost(tiny: Tiny) -> None:
    profile = tiny.place.profile("cpu0")
    sizes = {key: BatchSizes(1, 4) for key in (SMALL, LARGE)}
    found = hardware_bench(tiny.place, tiny.place.catalog(), profile, sizes)
    assert found.names == ("cpu0", "cpu1")
    before = {each.pid for each in psutil.Process().children(recursive=True)}
    with opened_bench(found.openings[:1]) as bench:
        both = Workload((Work(SMALL, 1), Work(LARGE, 4), STREAM))
        (ran,) = bench.run([both], 0.05)
        assert [each.work for each in ran] == [turn % 3 for turn in range(len(ran))]
        assert all(0 <= each.began_s <= each.ended_s for each in ran)
        assert all(each.batch_s > 0 for each in ran)
        arriving = Workload((Work(SMALL, 1),), (Arrival(0.01, 0), Arrival(0.02, 0)))
        (ran,) = bench.run([arriving], LATE_S)
        assert [each.arrived_s for each in ran] == [0.01, 0.02]
        with pytest.raises(RuntimeError, match="KeyError"):
            bench.run([Workload((Work(SMALL, 3),), (Arrival(0.0, 0),))], LATE_S)
        assert bench.run([arriving], LATE_S)[0], "an error of a slice is no error of the next"
        (child,) = {each.pid for each in psutil.Process().children(recursive=True)} - before
        os.kill(child, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(DeviceLost, match="cpu0 is lost"):
                bench.run([arriving], LATE_S)


def _far_end(device: str) -> tuple[DeviceChannel, Channel[BenchCommand]]:
    """A device, and the end of its process, of which a test plays the part."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return DeviceChannel(device, Channel(ours, EVENTS)), Channel(its, COMMANDS)


def test_a_slice_that_one_device_cannot_begin_leaves_no_answer_of_another_for_the_next_slice() -> None:
    (first, its), (second, gone) = _far_end("cpu0"), _far_end("cpu1")
    gone.close()
    bench, workload = ProcessBench([first, second], 1), Workload((STREAM,))
    for began_s in (1.0, 2.0):
        its.send(Done([Ran(0, 0.0, began_s, 3.0, 0.1)]), wait=True)
        if began_s == 1.0:
            with pytest.raises(DeviceLost, match="cpu1 is lost"):
                bench.run([workload, workload], 0.0)
    assert [each.began_s for each in bench.run([workload], 0.0)[0]] == [2.0]
    first.channel.close()
    second.channel.close()
    its.close()


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
    device = MeasuredDevice(dict.fromkeys(works, (runner, inputs)), None, 2, busy_clock(gpu))
    arrivals = tuple(Arrival(0.0, place % 2) for place in range(6))
    ran = device.slice(RunSlice(Workload(works, arrivals), 0.0, 1e12))
    assert sorted(each.work for each in ran) == [0, 0, 0, 1, 1, 1]


def test_on_one_core_only_the_time_with_the_core_counts() -> None:
    one, two = (Device("cpu0", "cpu", "cpu", "a CPU", 0, cores) for cores in ((0,), (0, 1)))
    assert busy_clock(one) is not busy_clock(two)


def test_errors_of_a_process_come_back_as_they_were() -> None:
    error = SentError.of(EngineError("it fails", hint="look")).error()
    assert isinstance(error, EngineError)
    assert error.hint == "look"


def test_a_stream_reads_all_of_its_memory_in_turns(tmp_path: Path) -> None:
    stream = Stream(TURN_BYTES + 80)
    assert [stream.read_on() for _ in range(3)] == [TURN_BYTES // 8, 10, TURN_BYTES // 8]
    for index, size in enumerate(("32K", "2048K", "300M", "odd")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert largest_cache_bytes(tmp_path) == 300 * 2**20
    assert largest_cache_bytes(tmp_path / "none") == 64 * 2**20
    assert stream_bytes(16 * 2**30, 300 * 2**20) == 600 * 2**20
    assert stream_bytes(16 * 2**30, 2**30) == 2**30
    assert stream_bytes(80 * 2**20, 2**30) == 10 * 2**20


def test_mps_is_seen_where_its_pipe_is(tmp_path: Path) -> None:
    assert not sees_mps({}, tmp_path)
    (tmp_path / "control").touch()
    assert sees_mps({}, tmp_path)
    assert not sees_mps({"CUDA_MPS_PIPE_DIRECTORY": str(tmp_path / "elsewhere")}, tmp_path)
