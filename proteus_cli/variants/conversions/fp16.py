"""Converts a model to FP16, with the converter that comes with ONNX Runtime.

Networks of TensorRT 11 are always strongly typed: an engine has the precision of its ONNX file. Inputs and
outputs keep their types, so that all variants of a family take and give the same tensors.
"""

from pathlib import Path
from typing import Any

from proteus_cli.errors import EngineError, UsageError
from proteus_cli.store.models.onnx_files import constants, read_graph


def to_fp16(onnx: Any, model: Path) -> bytes:
    """The content of a file that computes in FP16.

    Raises `ArtefactError` where the model can't be read, `UsageError` where it has no weights in FP32, `EngineError`
    where the converter fails.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415 - needs the package `onnx`

    loaded = read_graph(onnx, model, with_weights=True)
    if all(tensor.data_type != onnx.TensorProto.FLOAT for tensor in constants(loaded.graph).values()):
        raise UsageError(f"`{model}` holds no weights in FP32.", hint="name a variant in full precision")
    try:
        return bytes(convert_float_to_float16(loaded, keep_io_types=True).SerializeToString())
    except Exception as error:  # of the converter or of protobuf: they share no base class
        raise EngineError(
            f"Can't convert `{model}` to FP16: {error}",
            hint="leave out `--fp16`, or convert it by hand and add the file",
        ) from error
