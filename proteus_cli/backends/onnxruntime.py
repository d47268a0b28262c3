"""ONNX Runtime on CPU cores: the backend that is always installed."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from proteus_cli.backends.base import NamedArrays, Runner, Signature, TensorSpec, require_batched, require_size
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import BackendInfo
from proteus_cli.errors import EngineError
from proteus_cli.store.models.onnx_files import TOLD_BY_CHECK
from proteus_cli.units import format_size

NAME = "onnxruntime"

_DTYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int8)": np.int8, "tensor(int16)": np.int16, "tensor(int32)": np.int32, "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8, "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64, "tensor(bool)": np.bool_,
}  # fmt: skip

ort.set_default_logger_severity(4)  # no errors either: they are raised, and stderr has lines of our own format only


class OnnxRuntime:
    """Runs ONNX files on a group of cores, with as many threads as it has cores."""

    max_slots = 1
    meter = None

    def __init__(self, device: Device) -> None:
        self._cores = device.cores
        self.versions = BackendInfo(name=NAME, versions={"onnxruntime": ort.__version__})

    def prepare(self, model: Path, owner: VariantKey | None = None) -> float:  # noqa: ARG002 - the protocol has it
        """Do nothing: ONNX Runtime builds while it loads."""
        return 0.0

    @contextmanager
    def runner(self, model: Path, owner: VariantKey | None = None) -> Iterator[Runner]:  # noqa: ARG002 - the protocol has it
        """Load an ONNX file. Raises `EngineError`.

        ONNX Runtime's own threads inherit the cores of the loading thread, so pin that first.
        """
        before_bytes = _resident_bytes()
        session = open_session(model, threads=len(self._cores))
        memory_bytes = max(_resident_bytes() - before_bytes, model.stat().st_size)
        yield _Session(model, session, _signature(session, model), memory_bytes)


def open_session(model: Path, *, threads: int = 1) -> ort.InferenceSession:
    """A session of an ONNX file, whatever its inputs and outputs are. Raises `EngineError` where it can't be loaded."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # else the first two batches of each size are slower, and each size keeps memory
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise EngineError(
            f"ONNX Runtime can't load `{model}`: {first_line(error)}",
            hint=f"is it a complete ONNX file? {TOLD_BY_CHECK}",
        ) from error


class _Session:
    def __init__(self, model: Path, session: ort.InferenceSession, signature: Signature, memory_bytes: int) -> None:
        self._model, self._session = model, session
        self._outputs = [spec.name for spec in signature.outputs]
        self.signature = signature
        self.memory_bytes = memory_bytes

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        """Run one batch. Raises `EngineError` where the model fails on it."""
        try:
            results = self._session.run(self._outputs, inputs)
        except Exception as error:
            raise EngineError(
                f"the model failed, `{self._model}`: {first_line(error)}",
                hint="does it run by itself in ONNX Runtime, on this machine?",
            ) from error
        return dict(zip(self._outputs, results, strict=True))


def first_line(error: Exception) -> str:
    """The message of ONNX Runtime, without its error code; in our words where it had too little memory."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if wanted := re.search(r"Failed to allocate memory for requested buffer of size (\d+)", text):
        return f"not enough memory for {format_size(int(wanted[1]))}"
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)


def _signature(session: Any, model: Path) -> Signature:
    inputs = tuple(_spec(value, model, is_input=True) for value in session.get_inputs())
    outputs = tuple(_spec(value, model, is_input=False) for value in session.get_outputs())
    return Signature(inputs, outputs)


def _spec(value: Any, model: Path, *, is_input: bool) -> TensorSpec:
    where = f"`{value.name}` of `{model}`"
    if value.type not in _DTYPES:
        raise EngineError(f"{where} has type {value.type}, which can't be served.", hint="use a numeric tensor")
    require_batched(where, value.shape, is_input=is_input)
    sizes = tuple(size if isinstance(size, int) else None for size in value.shape[1:])
    spec = TensorSpec(value.name, np.dtype(_DTYPES[value.type]), sizes)
    require_size(where, spec)
    return spec


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0  # not Linux: the model's size on disk stands in
    return pages * os.sysconf("SC_PAGE_SIZE")
