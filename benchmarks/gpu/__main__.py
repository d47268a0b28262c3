"""Our executor on a GPU beside NVIDIA's `trtexec`, on the same plan file.

`python -m benchmarks.gpu` builds the engine of a variant of the workspace, then has both run batches of one size, with
1 to 4 slots (streams), one after the other in each round. It prints rows per second and the ratio of each round: the
median, and the lowest and highest; and exits with 1 where the best median is below 0.97 of `trtexec`. It needs a GPU,
TensorRT, pycuda and `trtexec`, and exits with 4 without.
"""

import argparse
import asyncio
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.gpu import trtexec
from benchmarks.gpu.closed_loop import Loop
from benchmarks.machine import machine
from benchmarks.tables import Aim, conclude
from proteus_cli.backends.base import BuildContext
from proteus_cli.backends.discovery import discover, select
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.backends.registry import open_backend
from proteus_cli.backends.tensorrt.backend import TensorRT
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.errors import BackendUnavailable, ProteusError
from proteus_cli.serving.devices.executor import Batch, BatchResult
from proteus_cli.serving.devices.gpu import GpuExecutor
from proteus_cli.serving.devices.hardware import REAL
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace

AIM = 0.97
AHEAD = 2  # batches submitted for each slot: one that runs and one behind it, as trtexec does
TOLERANCE = 1e-2  # of answers: TensorRT computes in TF32 where it may


@dataclass(frozen=True, slots=True)
class Case:
    """What both run: an engine on a device, and one batch for it."""

    backend: TensorRT
    key: VariantKey
    model: Path
    plan: Path
    batch: Batch
    shapes: Sequence[tuple[str, Sequence[int]]]
    wanted: Sequence[np.ndarray]

    def check(self, result: BatchResult) -> None:
        """A faster wrong answer is none."""
        if result.failures or not all(
            np.allclose(found, wanted, atol=TOLERANCE)
            for found, wanted in zip(result.outputs, self.wanted, strict=True)
        ):
            raise RuntimeError("a batch was answered otherwise than on the CPU")


def main() -> int:
    """Run the benchmark, and print its table and aim; 1 where that is missed."""
    options = _options()
    try:
        tool = trtexec.find()
        case = _case(Workspace(options.workspace), options.device, options.variant, options.batch)
        if tool is None:
            raise BackendUnavailable("`trtexec` is not here.", hint="it comes with TensorRT; put it on PATH")
        return _compare(case, tool, options)
    except ProteusError as error:
        print(f"error: {error.message}\n\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="gpu0")
    parser.add_argument("--variant", default="signals/signals-xxl", help="FAMILY/VARIANT of the workspace")
    parser.add_argument("--batch", type=int, default=32, help="rows of each batch")
    parser.add_argument("--slots", default="1,2,3,4", help="numbers of slots to try")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    parser.add_argument("--workspace", type=Path, default=Path())
    return parser.parse_args()


def _case(place: Workspace, device_id: str, name: str, rows: int) -> Case:
    """Builds the engine where there is none that fits. Raises `ProteusError`."""
    (device,) = select(discover(read_settings(place.root).devices), device_id)
    catalog = place.catalog()
    family, _, variant = name.partition("/")
    onnx = catalog.family(family).variant(variant).onnx
    if device.kind != "gpu" or onnx is None:
        raise BackendUnavailable(
            f"Nothing to run of `{name}` on {device.id}.", hint="name a GPU, and a variant with a model"
        )
    model = place.model_path(onnx)
    backend = open_backend(device, BuildContext(place.built_dir, rows, say=print))
    assert isinstance(backend, TensorRT)
    with OnnxRuntime(Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))).runner(model) as runner:
        inputs = runner.signature.sample(rows, np.random.default_rng(0))
        wanted = tuple(runner.infer(inputs).values())
        buffers = tuple(inputs[spec.name].data.cast("B") for spec in runner.signature.inputs)
        shapes = [(spec.name, (rows, *inputs[spec.name].shape[1:])) for spec in runner.signature.inputs]
    key = VariantKey(family, variant)
    return Case(
        backend,
        key,
        model,
        backend.plan_file(model, key),
        Batch(key, [(rows, buffers)], rows),
        shapes,
        wanted,
    )


def _compare(case: Case, tool: Path, options: argparse.Namespace) -> int:
    slots = [int(number) for number in options.slots.split(",")]
    rounds: dict[int, list[tuple[float, float]]] = {number: [] for number in slots}
    version: str | None = None
    for _ in range(options.rounds):
        for number in slots:
            call = trtexec.command(tool, case.plan, case.shapes, streams=number, for_s=options.seconds)
            theirs = trtexec.run(call)
            version = theirs.version or version
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the server has it
                ours = runner.run(_ours(case, number, options.seconds))
            rounds[number].append((ours * case.batch.rows, theirs.batches_per_s * case.batch.rows))
    best = _show(case, rounds, version)
    if case.backend.versions.name not in REAL:
        return 0
    return conclude([Aim("the best median of our rows per second", best, AIM, "of trtexec's", is_most=False)])


async def _ours(case: Case, slots: int, for_s: float) -> float:
    executor = GpuExecutor(case.backend.context, lambda key, model: case.backend.plan(model, key), print, slots=slots)
    try:
        await executor.load(case.key, case.model, case.batch.rows)
        loop = Loop(executor, case.batch, AHEAD * slots, case.check)
        return await loop.batches_per_s(trtexec.WARM_UP_S, for_s)
    finally:
        executor.close()


def _show(case: Case, rounds: dict[int, list[tuple[float, float]]], version: str | None) -> float:
    """Print the figures; the best median of ratios."""
    console = Console()
    versions = ", ".join(f"{name} {number}" for name, number in case.backend.versions.versions.items())
    console.print(f"{case.backend.gpu.name}, {versions}, trtexec of TensorRT {version or '?'}; {machine()}")
    if case.backend.versions.name not in REAL:
        console.print("EMULATED: these are doubles, and no figure below is a measurement of a GPU")
    table = Table("slots", "ours, rows/s", "trtexec, rows/s", "ratio", "lowest–highest")
    for number, found in rounds.items():
        ratios = [ours / theirs for ours, theirs in found]
        ours, theirs = (statistics.median(each) for each in zip(*found, strict=True))
        spread = f"{min(ratios):.3f}–{max(ratios):.3f}"
        table.add_row(str(number), f"{ours:,.0f}", f"{theirs:,.0f}", f"{statistics.median(ratios):.3f}", spread)
    console.print(table)
    best = max(statistics.median(ours / theirs for ours, theirs in found) for found in rounds.values())
    what = f"batches of {case.batch.rows} of {'/'.join(case.key)}, medians of {len(next(iter(rounds.values())))} rounds"
    console.print(f"{what}; best ratio: {best:.3f}")
    return best


if __name__ == "__main__":
    sys.exit(main())
