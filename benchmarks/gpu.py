"""Our executor on a GPU beside NVIDIA's `trtexec`, on the same plan file; 2 minutes.

It builds the engine of a variant of the workspace, then has both run batches of one size, with 1 to 4 slots (streams),
one after the other in each round. It prints rows per second and the ratio of each round, and exits with 1 where the
best median is below 0.97 of `trtexec`. It needs a GPU, TensorRT, pycuda and `trtexec`, and exits with 4 without.

The throughput of `trtexec` counts batches: runs of the engine over all streams, by the wall-clock time of all (NVIDIA's
documentation, "Command-Line Programs"). Inputs and outputs are copied for each, as here.
"""

import argparse
import asyncio
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import uvloop

from benchmarks.frame import Aim, Found, Run, Table, benchmark, spread
from proteus_cli.backends.base import BuildContext
from proteus_cli.backends.discovery import discover, select
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.backends.registry import open_backend
from proteus_cli.backends.tensorrt.backend import TensorRT
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import BackendUnavailable, ProteusError
from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor
from proteus_cli.serving.devices.gpu import GpuExecutor
from proteus_cli.serving.devices.hardware import REAL
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace

AIM = 0.97
AHEAD = 2  # batches submitted for each slot: one that runs and one behind it, as trtexec does
TOLERANCE = 1e-2  # of answers: TensorRT computes in TF32 where it may
WARM_UP_S = 0.5
PLACES = ("/opt/tensorrt/bin", "/usr/src/tensorrt/bin")
"""The directories of NVIDIA's containers and packages."""
_THROUGHPUT = re.compile(r"Throughput: ([0-9.e+]+) qps")


@dataclass(frozen=True, slots=True)
class Case:
    """The input of both: an engine on a device, and one batch for it."""

    backend: TensorRT
    key: VariantKey
    model: Path
    plan: Path
    batch: Batch
    shapes: str
    wanted: Sequence[np.ndarray]

    def check(self, result: BatchResult) -> None:
        """A faster wrong answer is none."""
        pairs = zip(result.outputs, self.wanted, strict=True)
        if result.failures or not all(np.allclose(found, wanted, atol=TOLERANCE) for found, wanted in pairs):
            raise RuntimeError("a batch was answered otherwise than on the CPU")


def gpu(run: Run) -> Found:
    """Rows per second by the number of slots."""
    options = run.options
    tool = shutil.which("trtexec") or next((p for d in PLACES if (p := shutil.which("trtexec", path=d))), None)
    case = _case(Workspace(options.workspace), options.device, options.variant, options.batch)
    if tool is None:
        raise BackendUnavailable("`trtexec` is not here.", hint="it comes with TensorRT; put it on PATH")
    slots = [int(number) for number in options.slots.split(",")]
    rounds: dict[int, list[tuple[float, float]]] = {number: [] for number in slots}
    for _ in range(run.rounds):
        for number in slots:
            theirs = trtexec(
                [tool, f"--loadEngine={case.plan}", f"--shapes={case.shapes}", f"--infStreams={number}",
                 f"--duration={options.seconds:g}", f"--warmUp={round(WARM_UP_S * 1e3)}"]
            )  # fmt: skip
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the server has it
                ours = runner.run(_ours(case, number, options.seconds))
            rounds[number].append((ours * case.batch.rows, theirs * case.batch.rows))
    ratios = {number: [ours / theirs for ours, theirs in of] for number, of in rounds.items()}
    rows = tuple(
        (str(number), *(spread(side, ",.0f") for side in zip(*of, strict=True)), spread(ratios[number], ".3f"))
        for number, of in rounds.items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in case.backend.versions.versions.items())
    title = f"Batches of {case.batch.rows} of {'/'.join(case.key)}, medians of {run.rounds} rounds"
    table = Table(title, ("slots", "ours, rows/s", "trtexec, rows/s", "ratio"), rows)
    where = f"{case.backend.gpu.name}, {versions}"
    if case.backend.versions.name not in REAL:
        return Found((table,), (), (where, "EMULATED: these are doubles, and no figure is a measurement of a GPU"))
    best = max(map(statistics.median, ratios.values()))
    return Found((table,), (Aim("our rows per second, the best median", best, AIM, "of trtexec's", False),), (where,))


def _case(place: Workspace, device_id: str, name: str, rows: int) -> Case:
    """Builds the engine where there is none that fits. Raises `ProteusError`."""
    (device,) = select(discover(read_settings(place.root).devices), device_id)
    family, _, variant = name.partition("/")
    onnx = place.catalog().family(family).variant(variant).onnx
    if device.kind != "gpu" or onnx is None:
        what = f"There is no model to run of `{name}` on {device.id}."
        raise BackendUnavailable(what, hint="name a GPU, and a variant with a model")
    key, model = VariantKey(family, variant), place.model_path(onnx)
    backend = open_backend(device, BuildContext(place.built_dir, rows, say=print))
    assert isinstance(backend, TensorRT)
    with OnnxRuntime(Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))).runner(model) as runner:
        inputs = runner.signature.sample(rows, np.random.default_rng(0))
        wanted = tuple(runner.infer(inputs).values())
        buffers = tuple(inputs[spec.name].data.cast("B") for spec in runner.signature.inputs)
        shapes = ",".join(
            f"{each.name}:{'x'.join(map(str, inputs[each.name].shape))}" for each in runner.signature.inputs
        )
    return Case(backend, key, model, backend.plan_file(model, key), Batch(key, [(rows, buffers)], rows), shapes, wanted)


async def _ours(case: Case, slots: int, for_s: float) -> float:
    executor = GpuExecutor(case.backend.context, lambda key, model: case.backend.plan(model, key), print, slots=slots)
    try:
        await executor.load(case.key, case.model, case.batch.rows)
        return await closed_loop(executor, case.batch, AHEAD * slots, case.check, for_s)
    finally:
        executor.close()


async def closed_loop(
    executor: Executor, batch: Batch, in_flight: int, check: Callable[[BatchResult], None], for_s: float
) -> float:
    """Batches per second, of which ``in_flight`` are submitted and not yet done at any time, after a warm-up.

    ``check`` gets every result. Raises its error, or that of the first batch that fails.
    """
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    done = left = 0
    stops = False

    def submit() -> None:
        nonlocal left
        left += 1
        executor.submit(batch, complete)

    def complete(result: BatchResult | Exception) -> None:
        nonlocal done, left
        done, left = done + 1, left - 1
        error = result if isinstance(result, Exception) else None
        try:
            if not isinstance(result, Exception):
                check(result)
        except Exception as raised:  # noqa: BLE001 - it is raised by whoever waits for the loop
            error = raised
        if error is not None and not ended.done():
            ended.set_exception(error)
        if not stops and not ended.done():
            submit()
        elif left == 0 and not ended.done():
            ended.set_result(None)

    for _ in range(in_flight):
        submit()
    await asyncio.wait((ended,), timeout=WARM_UP_S)
    before, start_s = done, perf_counter()
    await asyncio.wait((ended,), timeout=0 if ended.done() else for_s)
    number, took_s = done - before, perf_counter() - start_s
    stops = True
    await ended
    return number / took_s


def trtexec(call: Sequence[str]) -> float:
    """Batches per second. Raises `RuntimeError` with the end of its output."""
    done = subprocess.run(call, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    end = " | ".join(done.stdout.strip().splitlines()[-5:])
    if done.returncode != 0:
        raise RuntimeError(f"trtexec failed ({done.returncode}): {end}")
    found = _THROUGHPUT.findall(done.stdout)
    if len(found) != 1 or float(found[0]) <= 0:
        raise RuntimeError(f"trtexec tells {len(found)} throughputs: {end}")
    return float(found[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="gpu0")
    parser.add_argument("--variant", default="signals/signals-xxl", help="FAMILY/VARIANT of the workspace")
    parser.add_argument("--batch", type=int, default=32, help="rows of each batch")
    parser.add_argument("--slots", default="1,2,3,4", help="numbers of slots to try")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--workspace", type=Path, default=Path())
    try:
        sys.exit(benchmark(__doc__, {"gpu": gpu}, rounds=5, parser=parser))
    except ProteusError as error:
        print(f"error: {error.message}\n\nhint: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
