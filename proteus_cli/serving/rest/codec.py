"""Bytes of REST requests and answers ↔ values. JSON and the binary tensor extension.

Source: the protocol's "HTTP/REST" document, and Triton's "Binary Tensor Data Extension".

What most requests look like (one flat list of numbers, or bytes) takes a short way; all else a general one.
"""

import math
import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any

import msgspec
import numpy as np

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.domain.buffer import Buffer
from proteus_cli.errors import BadRequest, BodyTooLarge
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch
from proteus_cli.serving.requests.query import DEFAULT_OPTIONS, Query

_LARGEST_INT64 = 2**63 - 1
_KNOWN_HEADS = 256  # JSON before binary tensors, remembered by family
_LONGEST_KNOWN_HEAD = 2048
_SMALL_BYTES = 64 * 1024
_US_PER_S = 1e6


class WireTensor(msgspec.Struct):
    """A tensor of a request, as it is on the wire."""

    name: str
    shape: list[Annotated[int, msgspec.Meta(le=_LARGEST_INT64)]]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: Any = None


class WireOutput(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}  # msgspec copies mutable defaults


class WireRequest(msgspec.Struct):
    """The JSON part of a request."""

    inputs: list[WireTensor]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[WireOutput] | None = None


class _FlatTensor(WireTensor):
    data: list[float] | None = None


class _FlatRequest(WireRequest):
    inputs: list[_FlatTensor]  # type: ignore[assignment]


class _Form(msgspec.Struct, frozen=True):
    """What the JSON before binary tensors says: how many bytes follow, and from where to where each input has them."""

    size: int
    parts: tuple[tuple[int, int], ...]
    query: Query

    def inputs(self, body: bytes | bytearray, first: int) -> tuple[Buffer, ...]:
        """The inputs in a body, behind ``first`` bytes of JSON; not copied where they are large."""
        content: Buffer = memoryview(body) if self.size > _SMALL_BYTES else body
        return tuple([content[first + start : first + end] for start, end in self.parts])


class _OneRow:
    """What a request of one row looks like in JSON, for an input of floats."""

    def __init__(self, spec: TensorSpec) -> None:
        sizes = [size or 0 for size in spec.shape]  # inputs have fixed shapes
        self.shape, self.count = [1, *sizes], math.prod(sizes)
        self.pack = struct.Struct(f"<{self.count}f").pack


_general = msgspec.json.Decoder(WireRequest)
_flat = msgspec.json.Decoder(_FlatRequest)
_encode = msgspec.json.Encoder().encode


class RestCodec:
    """The requests and answers of one family, of ``max_rows`` rows at most.

    ``max_bytes``: more can't be needed for that many rows, so a larger body is refused before it is looked at. Without
    this, JSON could hold the event loop as long as the server's largest body takes to decode.
    """

    def __init__(self, family: str, signature: Signature, max_rows: int) -> None:
        self._signature = signature
        self._family = family
        self.max_bytes = oip.max_bytes(signature, max_rows)
        self._forms: dict[bytes, _Form] = {}
        self._all_outputs = tuple((place, False) for place in range(len(signature.outputs)))
        self._one_row = _OneRow(signature.inputs[0])
        self._is_flat = len(signature.inputs) == 1 and signature.inputs[0].dtype == np.float32

    def decode(self, body: bytes | bytearray, json_length: int | None) -> Query:
        """Decode and check a request.

        ``json_length`` is the value of `Inference-Header-Content-Length`: binary tensors follow so many bytes of JSON.
        Raises `BadRequest`, `BodyTooLarge`.
        """
        if len(body) > self.max_bytes:
            raise BodyTooLarge(
                f"a request for `{self._family}` needs at most {self.max_bytes} bytes; got {len(body)}"
                " (binary tensors are smaller than JSON, see Inference-Header-Content-Length)"
            )
        if json_length is not None:
            return self._decode_binary(body, json_length)
        if self._is_flat:
            query = self._decode_flat(body)
            if query is not None:
                return query
        return self._decode_any(_parsed(body), memoryview(b""))

    def _decode_flat(self, body: bytes | bytearray) -> Query | None:
        """A request whose one input is a flat list of floats; None where it is another, or wrong."""
        try:
            wire = _flat.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if len(wire.inputs) != 1:
            return None
        tensor = wire.inputs[0]
        data, spec = tensor.data, self._signature.inputs[0]
        if data is None or tensor.parameters or tensor.name != spec.name:
            return None
        if tensor.shape == self._one_row.shape and tensor.datatype == "FP32" and len(data) == self._one_row.count:
            rows, pack = 1, self._one_row.pack
        else:
            rows = oip.rows_of(tensor.name, tensor.datatype, tensor.shape, spec)
            _require_count(tensor, len(data))
            pack = struct.Struct(f"<{len(data)}f").pack
        try:
            packed = pack(*data)
        except OverflowError:  # beyond the range of a float is infinity: the general way knows
            return None
        parameters = wire.parameters
        outputs = self._all_outputs if parameters is None and wire.outputs is None else self._outputs(wire)
        return Query((packed,), rows, outputs, oip.options(parameters) if parameters else DEFAULT_OPTIONS, wire.id)

    def _decode_binary(self, body: bytes | bytearray, json_length: int) -> Query:
        if not 0 <= json_length <= len(body):
            raise BadRequest(f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes")
        head = bytes(body[:json_length])
        form = self._forms.get(head)
        if form is not None and len(body) == json_length + form.size:
            known = form.query
            return Query(form.inputs(body, json_length), known.rows, known.outputs, known.options, known.id)
        wire = _parsed(head)
        query = self._decode_any(wire, memoryview(body)[json_length:])
        self._remember(head, wire, query)
        return query

    def _remember(self, head: bytes, wire: WireRequest, query: Query) -> None:
        """The next request with this head is known by it, where all its tensors are in bytes."""
        if len(head) > _LONGEST_KNOWN_HEAD or any(tensor.data is not None for tensor in wire.inputs):
            return
        if len(self._forms) >= _KNOWN_HEADS:
            self._forms.clear()
        order = oip.in_order(self._signature, [tensor.name for tensor in wire.inputs])
        ends = list(accumulate((tensor.parameters or {})["binary_data_size"] for tensor in wire.inputs))
        parts = tuple((start, end) for start, end in zip([0, *ends], ends, strict=False))
        known = Query((), query.rows, query.outputs, query.options, query.id)
        self._forms[head] = _Form(ends[-1], tuple(parts[place] for place in order), known)

    def _decode_any(self, wire: WireRequest, rest: memoryview) -> Query:
        order = oip.in_order(self._signature, [tensor.name for tensor in wire.inputs])
        specs = {spec.name: spec for spec in self._signature.inputs}
        blobs = _Binary(rest)
        # Binary tensors follow each other in the order of the request.
        decoded = [_tensor(tensor, specs[tensor.name], blobs) for tensor in wire.inputs]
        blobs.require_used_up()
        rows = oip.require_same([rows for rows, _ in decoded])
        inputs = tuple(decoded[place][1] for place in order)
        return Query(inputs, rows, self._outputs(wire), oip.options(wire.parameters or {}), wire.id)

    def _outputs(self, wire: WireRequest) -> tuple[tuple[int, bool], ...]:
        by_default = _flag(wire.parameters or {}, "binary_data_output", default=False)
        if not wire.outputs:
            if not by_default:
                return self._all_outputs
            return tuple((place, True) for place, _ in self._all_outputs)
        return oip.outputs_by_name(
            self._signature,
            [(output.name, _flag(output.parameters, "binary_data", default=by_default)) for output in wire.outputs],
        )

    def encode(self, query: Query, answer: Answered) -> tuple[bytes, list[Buffer]]:
        """The JSON of an answer, and the binary tensors that follow it."""
        memo, rows, first = answer.batch.memo, answer.rows, answer.first
        try:
            start, outputs = memo[query.outputs, rows]
        except KeyError:
            start, outputs = memo[query.outputs, rows] = self._shared(query, answer)
        text, blobs = start % (answer.queue_s * _US_PER_S), list[Buffer]()
        for described, values, row_bytes in outputs:
            if row_bytes >= 0:
                blobs.append(values[first * row_bytes : (first + rows) * row_bytes])
                text += described
            elif rows == 1:
                text += b"%b%b}" % (described, _encode(values[first]))
            else:
                flat = [value for row in values[first : first + rows] for value in row]
                text += b"%b%b}" % (described, _encode(flat))
        if query.id is not None:
            return b'%b],"id":%b}' % (text, _encode(query.id)), blobs
        return text + b"]}", blobs

    def _shared(self, query: Query, answer: Answered) -> tuple[bytes, list[tuple[bytes, Any, int]]]:
        """What answers of one batch with as many rows share: all but the time in the queue, the id, and whose rows.

        The JSON up to the time in the queue, and of each output its JSON up to the values, the values of all rows, in
        bytes or as lists, and the bytes of a row, -1 for lists.
        """
        batch, hosted = answer.batch, answer.batch.hosted
        parameters = {
            "variant": hosted.variant, "accuracy": hosted.accuracy, "device": hosted.device,
            "batch_size": batch.rows, "compute_us": round(batch.compute_s * _US_PER_S),
            **({"emulated": True} if batch.is_emulated else {}),
        }  # fmt: skip
        head = {"model_name": self._family, "model_version": oip.VERSION, "parameters": parameters}
        start = _encode(head)[:-2].replace(b"%", b"%%") + b',"queue_us":%d},"outputs":['
        outputs: list[tuple[bytes, Any, int]] = []
        for place, as_binary in query.outputs:
            values, spec = batch.outputs[place], self._signature.outputs[place]
            shape = [answer.rows, *values.shape[1:]]
            tensor: dict[str, Any] = {"name": spec.name, "datatype": oip.DATATYPE_OF[values.dtype], "shape": shape}
            comma = b"," if outputs else b""
            if as_binary:
                content, row_bytes = batch.content(place)
                tensor["parameters"] = {"binary_data_size": row_bytes * answer.rows}
                outputs.append((comma + _encode(tensor), content, row_bytes))
            else:
                outputs.append((comma + _encode(tensor)[:-1] + b',"data":', _lists(batch, place), -1))
        return start, outputs


def _lists(batch: AnsweredBatch, place: int) -> list[list[Any]]:
    """Each row of an output as a flat list; made once for a batch."""
    key = ("lists", place)
    if key not in batch.memo:
        values = batch.outputs[place]
        batch.memo[key] = values.reshape(len(values), -1).tolist()
    found: list[list[Any]] = batch.memo[key]
    return found


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"parameter `{name}` must be true or false; got {value!r}")
    return value


def _parsed(content: bytes | bytearray) -> WireRequest:
    try:
        return _general.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"not a valid inference request: {error}") from None


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


def _tensor(tensor: WireTensor, spec: TensorSpec, blobs: _Binary) -> tuple[int, Buffer]:
    """An input's rows, and their values in bytes."""
    rows = oip.rows_of(tensor.name, tensor.datatype, tensor.shape, spec)
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        return rows, _from_json(tensor, spec)
    if not isinstance(size, int) or isinstance(size, bool) or tensor.data is not None:
        raise BadRequest(f"input `{tensor.name}`: binary_data_size must be a whole number, and `data` left out with it")
    values = blobs.take(size, tensor.name)
    oip.require_bytes(tensor.name, size, rows, spec)
    return rows, values


def _from_json(tensor: WireTensor, spec: TensorSpec) -> bytes:
    if not isinstance(tensor.data, list):
        raise BadRequest(f"input `{tensor.name}` needs `data`: a list of numbers")
    # Told by its length before it is converted: what doesn't fit must cost nothing.
    if len(tensor.data) > math.prod(tensor.shape):
        _require_count(tensor, len(tensor.data))
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
    _require_count(tensor, values.size)
    with np.errstate(over="ignore"):  # beyond the range of a float is infinity
        return values.astype(spec.dtype).tobytes()


def _require_count(tensor: WireTensor, count: int) -> None:
    needed = math.prod(tensor.shape)
    if count != needed:
        raise BadRequest(f"input `{tensor.name}` has {count} values; its shape {tensor.shape} needs {needed}")


def _whole(data: Sequence[Any], values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Whole numbers on both sides of 2⁶³, for which numpy knows no type but floats; ``values`` where some aren't."""
    entries = np.asarray(data, dtype=object)
    is_whole = all(type(entry) is int and 0 <= entry < 2**64 for entry in entries.flat)
    return entries.astype(np.uint64) if is_whole else values
