"""Computes for the double of TensorRT on a real GPU, with CuPy, behind what is on the stream already.

It was never run where it was written: no GPU was there.
"""

from functools import cache
from typing import Any

import cupy
import numpy as np
from contract.runtime.arithmetic import Network
from contract.runtime.double_tensorrt import IExecutionContext, nptype


def launch(context: IExecutionContext, stream_handle: int, ticket: int) -> bool:
    engine, rows = context._engine, context._rows
    with cupy.cuda.ExternalStream(stream_handle):
        inputs = {in_file: _tensor(context, name, rows[name]) for name, in_file in engine._in_file.items()}
        values = _network(engine._model).compute(inputs)
        for name in engine._outputs:
            _tensor(context, name, len(values[name]))[...] = values[name]
    return True


@cache
def _network(model: bytes) -> Network:
    """Its weights are there before another stream uses them."""
    made = Network(model, cupy)
    cupy.cuda.get_current_stream().synchronize()
    return made


def _tensor(context: IExecutionContext, name: str, rows: int) -> Any:
    """The first rows of a tensor, where pycuda has allocated them."""
    engine, address = context._engine, context._addresses[name]
    dtype = np.dtype(nptype(engine.get_tensor_dtype(name)))
    shape = (rows, *engine.get_tensor_shape(name)[1:])
    memory = cupy.cuda.UnownedMemory(address, int(np.prod(shape)) * dtype.itemsize, owner=context)
    return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(memory, 0))
