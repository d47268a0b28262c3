"""What scenarios run on: two environment variables name the driver, and what computes.

``CONTRACT_DEVICE`` is ``fake`` or ``real``. ``CONTRACT_COMPUTE`` is ``host`` (ONNX Runtime, for the fake driver),
``tensorrt``, or ``cupy``: on a GPU without TensorRT, CuPy computes in its place, on the same streams.
"""

import importlib
import os
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from contract.runtime.plans import make_plan

FAKE, REAL = "fake", "real"
HOST, TENSORRT, CUPY = "host", "tensorrt", "cupy"

DEVICE = os.environ.get("CONTRACT_DEVICE", FAKE)
COMPUTE = os.environ.get("CONTRACT_COMPUTE", HOST)

device = importlib.import_module(f"contract.runtime.{DEVICE}")
fake = device  # what only scenarios for the fake one use


def set_up() -> None:
    """Before anything imports `tensorrt`."""
    if COMPUTE == TENSORRT:
        return
    from contract.runtime import double_tensorrt  # noqa: PLC0415 - not where the real one is used

    sys.modules["tensorrt"] = double_tensorrt
    if COMPUTE == CUPY:
        from contract.runtime import on_cupy  # noqa: PLC0415 - only where CuPy is

        double_tensorrt._launch = on_cupy.launch


@cache
def plan_of(model: Path, max_rows: int) -> bytes:
    """The serialized engine of a model, for what computes."""
    if COMPUTE != TENSORRT:
        return make_plan(model, max_rows)
    from proteus_cli.backends.tensorrt.building import build  # noqa: PLC0415 - after `set_up`
    from proteus_cli.backends.tensorrt.cuda import primary_context  # noqa: PLC0415
    from proteus_cli.backends.tensorrt.records import BuildOptions  # noqa: PLC0415

    options = BuildOptions(opt_batch=max_rows, max_batch=max_rows)
    with TemporaryDirectory() as timings:
        return build(model, options, Path(timings), lambda _now, _done: True, on_device=primary_context(0).current)


def made() -> dict[str, int]:
    """How many slots there were, and how many batches ran in them, as far as a double counts them."""
    if COMPUTE == TENSORRT:
        return {}
    return importlib.import_module("contract.runtime.double_tensorrt")._made()  # type: ignore[no-any-return]
