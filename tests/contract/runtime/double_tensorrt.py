"""Stands for `tensorrt` at run time: ONNX Runtime behind TensorRT's names, in the order of the fake driver's streams.

What has no underscore is TensorRT's: `api/test_doubles.py` compares it with the real modules. Plans are those of
`plans.py`. What an engine and its contexts would take of the device's memory they allocate there. A model that fails
while it runs is a kernel that goes astray: the context is lost. Shapes and addresses count as they are when a batch is
enqueued.
"""

import ctypes
import enum
import math
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from contract.runtime.plans import read_plan

_MIN_ROWS, _OPT_ROWS = 1, 8
_WORKSPACE_BYTES = 2**20
_ILLEGAL_ADDRESS = 700
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}

_HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_driver = ctypes.CDLL("libcuda.so.1")
_driver.cuLaunchHostFunc.argtypes = [ctypes.c_void_p, _HostFunction, ctypes.c_void_p]
_driver.cuMemFree_v2.argtypes = [ctypes.c_void_p]


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.Enum):
    FLOAT, HALF, INT64 = np.float32, np.float16, np.int64


def nptype(trt_type: DataType) -> Any:
    return trt_type.value


class ILogger:
    Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

    def log(self, severity: Any, msg: str) -> None:
        raise NotImplementedError


class _DeviceMemory:
    """Some of the device's memory, freed when nobody holds it any more, in whatever context is current then."""

    def __init__(self, needed_bytes: int) -> None:
        self.address = ctypes.c_void_p()
        self.is_there = _driver.cuMemAlloc_v2(ctypes.byref(self.address), ctypes.c_size_t(needed_bytes)) == 0

    def __del__(self) -> None:
        if self.is_there:
            _driver.cuMemFree_v2(self.address)


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        memory = _DeviceMemory(len(serialized_engine))
        if not memory.is_there:
            self._logger.log(ILogger.Severity.ERROR, "out of memory for the weights")
            return None
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        max_rows, model = read_plan(serialized_engine)
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - TensorRT raises nothing: it logs
            why = f"not a plan: {type(error).__name__}"
            self._logger.log(ILogger.Severity.ERROR, why)
            return None
        return ICudaEngine(session, max_rows, memory, model)


class ICudaEngine:
    def __init__(self, session: Any, max_rows: int, memory: _DeviceMemory, model: bytes) -> None:
        self._session, self._max_rows, self._memory, self._model = session, max_rows, memory, model
        self._outputs = [value.name for value in session.get_outputs()]
        # As the parser does, which lets no input be an output, too: by name, what the ONNX file calls it.
        called = {value.name: f"__{value.name}" * (value.name in self._outputs) for value in session.get_inputs()}
        self._in_file = {new or name: name for name, new in called.items()}
        self._inputs: list[str] = list(self._in_file)
        taken = zip(self._inputs, session.get_inputs(), strict=True)
        self._values: dict[str, Any] = {**dict(taken), **{value.name: value for value in session.get_outputs()}}
        self.num_io_tensors = len(self._values)
        self.device_memory_size_v2 = _WORKSPACE_BYTES

    def get_tensor_name(self, index: int) -> str:
        return list(self._values)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(_DTYPES[self._values[name].type])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._values[name].shape)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        rest = self.get_tensor_shape(name)[1:]
        return [(rows, *rest) for rows in (_MIN_ROWS, min(_OPT_ROWS, self._max_rows), self._max_rows)]

    def create_execution_context(self) -> "IExecutionContext | None":
        memory = _DeviceMemory(self.device_memory_size_v2)
        return IExecutionContext(self, memory) if memory.is_there else None


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, memory: _DeviceMemory) -> None:
        self._engine, self._memory = engine, memory
        next(_contexts)
        self._rows: dict[str, int] = {}
        self._shapes_set = 0
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        fits = len(shape) == len(most) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if fits:
            self._rows[name] = shape[0]
            self._shapes_set += 1
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        return _launch(self, stream_handle, next(_tickets))

    def _compute(self, rows: dict[str, int], addresses: dict[str, int]) -> None:
        engine = self._engine
        inputs = {
            in_file: self._tensor(name, rows[name], addresses[name]).copy() for name, in_file in engine._in_file.items()
        }
        for name, values in zip(engine._outputs, engine._session.run(engine._outputs, inputs), strict=True):
            self._tensor(name, len(values), addresses[name])[...] = values

    def _tensor(self, name: str, rows: int, address: int) -> npt.NDArray[Any]:
        """The first rows of a tensor, where they lie on the device."""
        dtype = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        shape = (rows, *self._engine.get_tensor_shape(name)[1:])
        memory = (ctypes.c_char * (math.prod(shape) * dtype.itemsize)).from_address(address)
        return np.frombuffer(memory, dtype).reshape(shape)


_contexts = count()
_tickets = count(1)  # 0 would be a null pointer
_enqueued: dict[int, tuple[IExecutionContext, dict[str, int], dict[str, int]]] = {}


def _launch(context: IExecutionContext, stream_handle: int, ticket: int) -> bool:
    """On the host, in the order of the stream: for a driver whose memory is there, too."""
    _enqueued[ticket] = (context, dict(context._rows), dict(context._addresses))
    return int(_driver.cuLaunchHostFunc(stream_handle, _compute, ticket)) == 0


def _run_enqueued(ticket: int) -> None:
    context, rows, addresses = _enqueued.pop(ticket)
    try:
        context._compute(rows, addresses)
    except Exception:  # noqa: BLE001 - no exception gets out of a callback
        _driver.fake_lose_context(_ILLEGAL_ADDRESS)


_compute = _HostFunction(_run_enqueued)


def _made() -> dict[str, int]:
    """How many slots there were, and how many batches ran in them."""
    return {"slots": next(_contexts), "batches": next(_tickets) - 1}
