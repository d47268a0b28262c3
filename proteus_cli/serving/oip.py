"""Open Inference Protocol v2 over REST: bytes ↔ values. JSON and the binary tensor extension.

Source: the protocol's "HTTP/REST" document, and Triton's "Binary Tensor Data Extension".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from proteus_cli.backends.base import Arrays, Signature, TensorSpec
from proteus_cli.errors import BadRequest

DATATYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
DATATYPE_OF = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}

_LARGEST_INT64 = 2**63 - 1

Parameters = dict[str, str | int | float | bool]


class WireTensor(msgspec.Struct):
    """A tensor of a request, as it is on the wire."""

    name: str
    shape: list[Annotated[int, msgspec.Meta(le=_LARGEST_INT64)]]
    datatype: str
    parameters: dict[str, Any] = {}  # msgspec copies mutable defaults
    data: Any = None


class WireOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class WireRequest(msgspec.Struct):
    """The JSON part of a request."""

    inputs: list[WireTensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[WireOutput] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A decoded request: ``inputs`` by name with ``rows`` rows each; ``outputs`` are (name, as binary) in order."""

    id: str | None
    inputs: Arrays
    rows: int
    parameters: Mapping[str, Any]
    outputs: tuple[tuple[str, bool], ...]


_wire = msgspec.json.Decoder(WireRequest)


def decode(body: bytes, json_length: int | None, signature: Signature) -> InferRequest:
    """Decode and check a request against what its family takes.

    ``json_length`` is the value of `Inference-Header-Content-Length`: binary tensors follow so many bytes of JSON.
    Raises `BadRequest`.
    """
    if json_length is not None and not 0 <= json_length <= len(body):
        raise BadRequest(f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes")
    try:
        wire = _wire.decode(body if json_length is None else body[:json_length])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"not a valid inference request: {error}") from None
    binary = _Binary(memoryview(body)[json_length:] if json_length is not None else memoryview(b""))
    tensors = {tensor.name: tensor for tensor in wire.inputs}
    names = [spec.name for spec in signature.inputs]
    if sorted(tensor.name for tensor in wire.inputs) != sorted(names):
        raise BadRequest(f"inputs must be {', '.join(names)}; got {', '.join(t.name for t in wire.inputs) or 'none'}")
    # Binary tensors follow each other in the order of the request.
    values = {tensor.name: _values(tensor, _spec(signature.inputs, tensor.name), binary) for tensor in wire.inputs}
    binary.require_used_up()
    rows = {len(value) for value in values.values()}
    if len(rows) != 1:
        raise BadRequest(f"all inputs must have as many rows; got {sorted(rows)}")
    return InferRequest(
        id=wire.id,
        inputs={name: values[tensors[name].name] for name in names},
        rows=rows.pop(),
        parameters=wire.parameters,
        outputs=_wanted_outputs(wire, signature),
    )


def _spec(specs: tuple[TensorSpec, ...], name: str) -> TensorSpec:
    return next(spec for spec in specs if spec.name == name)


class _Binary:
    """The bytes behind the JSON, handed out in order."""

    def __init__(self, rest: memoryview) -> None:
        self._rest = rest

    def take(self, size: int, name: str) -> memoryview:
        if size < 0 or size > len(self._rest):
            raise BadRequest(f"input `{name}` claims {size} bytes of binary data; {len(self._rest)} are left")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def require_used_up(self) -> None:
        if len(self._rest):
            raise BadRequest(f"{len(self._rest)} bytes of binary data belong to no input")


def _values(tensor: WireTensor, spec: TensorSpec, binary: _Binary) -> npt.NDArray[Any]:
    name, expected = tensor.name, DATATYPE_OF[spec.dtype]
    if tensor.datatype != expected:
        raise BadRequest(f"input `{name}` must have datatype {expected}; got {tensor.datatype}")
    if tuple(tensor.shape[1:]) != spec.shape or len(tensor.shape) != len(spec.shape) + 1 or tensor.shape[0] < 1:
        sizes = ", ".join(["rows", *(str(size) for size in spec.shape)])
        raise BadRequest(f"input `{name}` must have shape [{sizes}] with rows ≥ 1; got {tensor.shape}")
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        values = _from_json(tensor, spec)
    elif isinstance(size, int) and not isinstance(size, bool) and tensor.data is None:
        values = _from_binary(binary.take(size, name), spec, name)
    else:
        raise BadRequest(f"input `{name}`: binary_data_size must be a whole number, and `data` left out with it")
    count = math.prod(tensor.shape)
    if values.size != count:
        raise BadRequest(f"input `{name}` has {values.size} values; its shape {tensor.shape} needs {count}")
    return values.reshape(tensor.shape)


def _from_binary(content: memoryview, spec: TensorSpec, name: str) -> npt.NDArray[Any]:
    if len(content) % spec.dtype.itemsize:
        raise BadRequest(
            f"input `{name}`: {len(content)} bytes aren't a whole number of {spec.dtype.itemsize}-byte values"
        )
    return np.frombuffer(content, dtype=spec.dtype.newbyteorder("<"))


def _from_json(tensor: WireTensor, spec: TensorSpec) -> npt.NDArray[Any]:
    if not isinstance(tensor.data, list):
        raise BadRequest(f"input `{tensor.name}` needs `data`: a list of numbers")
    # Told by its length before it is converted: what doesn't fit must cost nothing.
    if len(tensor.data) > math.prod(tensor.shape):
        raise BadRequest(
            f"input `{tensor.name}` has {len(tensor.data)} values; its shape {tensor.shape} needs "
            f"{math.prod(tensor.shape)}"
        )
    try:
        values = np.asarray(tensor.data)
    except (ValueError, OverflowError):
        raise BadRequest(f"input `{tensor.name}`: `data` must be a flat or evenly nested list of numbers") from None
    if spec.dtype == np.uint64 and values.dtype.kind == "f":
        values = _whole(tensor.data, values)
    kinds = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[spec.dtype.kind]
    if values.size and values.dtype.kind not in kinds:
        raise BadRequest(f"input `{tensor.name}`: `data` must hold {tensor.datatype} values")
    if spec.dtype.kind in "iu" and values.size:
        limits = np.iinfo(spec.dtype)
        if np.min(values) < limits.min or np.max(values) > limits.max:
            raise BadRequest(f"input `{tensor.name}`: values don't fit {tensor.datatype}")
    with np.errstate(over="ignore"):  # beyond the range of a float is infinity
        return values.astype(spec.dtype)


def _whole(data: list[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Whole numbers on both sides of 2⁶³, for which numpy knows no type but floats; ``values`` where some aren't."""
    entries = np.asarray(data, dtype=object)
    is_whole = all(type(entry) is int and 0 <= entry < 2**64 for entry in entries.flat)
    return entries.astype(np.uint64) if is_whole else values


def _wanted_outputs(wire: WireRequest, signature: Signature) -> tuple[tuple[str, bool], ...]:
    by_default = wire.parameters.get("binary_data_output", False) is True
    names = [spec.name for spec in signature.outputs]
    if wire.outputs is None:
        return tuple((name, by_default) for name in names)
    for output in wire.outputs:
        if output.name not in names:
            raise BadRequest(f"no output `{output.name}`; there are: {', '.join(names)}")
    if len({output.name for output in wire.outputs}) != len(wire.outputs):
        raise BadRequest("an output may be asked for once")
    return tuple((o.name, o.parameters.get("binary_data", by_default) is True) for o in wire.outputs)


def encode(model: str, request: InferRequest, outputs: Arrays, parameters: Parameters) -> tuple[bytes, int | None]:
    """The body of a response, and the length of its JSON part where binary tensors follow."""
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name, as_binary in request.outputs:
        values = outputs[name]
        tensor: dict[str, Any] = {"name": name, "datatype": DATATYPE_OF[values.dtype], "shape": list(values.shape)}
        if as_binary:
            blobs.append(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
            tensor["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            tensor["data"] = values.ravel().tolist()
        tensors.append(tensor)
    head: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": tensors, "parameters": parameters}
    if request.id is not None:
        head["id"] = request.id
    body = msgspec.json.encode(head)
    return (b"".join((body, *blobs)), len(body)) if blobs else (body, None)


def metadata(model: str, platform: str, signature: Signature) -> dict[str, Any]:
    """Model metadata as the protocol names it; -1 stands for sizes that vary."""
    return {
        "name": model,
        "versions": ["1"],
        "platform": platform,
        "inputs": [_tensor_metadata(spec) for spec in signature.inputs],
        "outputs": [_tensor_metadata(spec) for spec in signature.outputs],
    }


def _tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    shape = [-1, *(-1 if size is None else size for size in spec.shape)]
    return {"name": spec.name, "datatype": DATATYPE_OF[spec.dtype], "shape": shape}
