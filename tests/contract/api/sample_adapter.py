"""Code as TensorRT and pycuda want it, for the checks to be tried on. It is never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt

if TYPE_CHECKING:
    import numpy.typing as npt


class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a base without stubs
    def __init__(self) -> None:
        trt.IProgressMonitor.__init__(self)
        self.steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self.steps[phase_name] = num_steps if parent_phase else 0

    def step_complete(self, phase_name: str, step: int) -> bool:
        return step < self.steps[phase_name]

    def phase_finish(self, phase_name: str) -> None:
        del self.steps[phase_name]


def build(onnx: bytes, logger: trt.ILogger, timings: bytes) -> bytes:
    builder = trt.Builder(logger)
    network = builder.create_network(flags=1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise ValueError([parser.get_error(index).desc() for index in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    config.progress_monitor = Monitor()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, min=(1, *rest), opt=(8, *rest), max=(32, *rest))
    config.add_optimization_profile(profile)
    cache = config.create_timing_cache(timings)
    if cache is not None:
        config.set_timing_cache(cache, ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError(onnx)
    return bytes(memoryview(plan))


class Slot:
    def __init__(self, engine: trt.ICudaEngine) -> None:
        context = engine.create_execution_context(strategy=trt.ExecutionContextAllocationStrategy.STATIC)
        if context is None:
            raise ValueError(engine)
        self.context: trt.IExecutionContext = context
        self.stream = cuda.Stream(1)
        self.started, self.done = cuda.Event(), cuda.Event(cuda.event_flags.BLOCKING_SYNC)
        self.device: dict[str, cuda.DeviceAllocation] = {}
        self.pinned: dict[str, npt.NDArray[Any]] = {}
        for index in range(engine.num_io_tensors):
            self._add(engine, engine.get_tensor_name(index))

    def _add(self, engine: trt.ICudaEngine, name: str) -> None:
        shape = tuple(engine.get_tensor_profile_shape(name, 0)[2])
        self.pinned[name] = cuda.pagelocked_empty(shape, np.float32, mem_flags=0)
        self.device[name] = cuda.mem_alloc(self.pinned[name].nbytes)
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            self.context.set_input_shape(name, shape)
        self.context.set_tensor_address(name, int(self.device[name]))

    def run(self, into: str, out_of: str) -> float:
        self.started.record(self.stream)
        cuda.memcpy_htod_async(self.device[into], self.pinned[into], self.stream)
        if not self.context.execute_async_v3(stream_handle=self.stream.handle):
            raise ValueError(into)
        cuda.memcpy_dtoh_async(self.pinned[out_of], self.device[out_of], self.stream)
        self.done.record(self.stream)
        self.done.synchronize()
        return float(self.done.time_since(self.started))


def load(plan: bytes, logger: trt.ILogger) -> Slot:
    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    try:
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None:
            raise ValueError(plan)
        return Slot(engine)
    finally:
        cuda.Context.pop()
