"""Inference requests and answers over REST: JSON, and the binary tensor extension.

The usual requests (one flat list of floats; bytes behind a JSON head that was seen before) take a fast path, all others
a general one. Source: the protocol's "HTTP/REST" document, and Triton's "Binary Tensor Data Extension".
"""

import math
import struct
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any, NamedTuple

import msgspec
import numpy as np

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.domain.arrays import Buffer
from proteus_cli.errors import BadRequest, BodyTooLarge
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch
from proteus_cli.serving.requests.query import DEFAULT_OPTIONS, Query, ReadInputs, RequestOptions
from proteus_cli.serving.rest.bodies import (
    InferRequest,
    InferResponse,
    RequestTensor,
    ResponseParameters,
    ResponseTensor,
    ResponseTensorParameters,
)

_MAX_KNOWN_HEADS = 256  # of JSON before binary tensors, by family
_LONGEST_KNOWN_HEAD = 2048
_SMALL_BYTES = 64 * 1024
_US_PER_S = 1e6


class _FlatTensor(RequestTensor):
    data: list[float] | None = None


class _FlatRequest(InferRequest):
    inputs: list[_FlatTensor]  # type: ignore[assignment]


class _BinaryLayout(msgspec.Struct, frozen=True):
    """What a JSON head before binary tensors says: the bytes behind it, where each input is in them, and the query."""

    size: int
    ranges: tuple[tuple[int, int], ...]
    query: Query

    def inputs(self, body: Buffer, first: int) -> tuple[Buffer, ...]:
        """The inputs in a body, behind ``first`` bytes of JSON; views of it where the body is large."""
        content: Buffer = memoryview(body) if self.size > _SMALL_BYTES else body
        return tuple([content[first + start : first + end] for start, end in self.ranges])


class _SharedAnswer(NamedTuple):
    """What the answers of one batch with as many rows share: all but the time in the queue, the id, and the rows.

    The JSON is ``before``, the time in the queue, ``after``; then for each of ``lists`` the values of this answer,
    and what follows them. ``binary`` has the bytes of all rows of an output, and how many a row has.
    """

    before: bytes
    after: bytes
    lists: list[tuple[list[list[Any]], bytes]]
    binary: list[tuple[Buffer, int]]


class _SingleRow:
    """Shape, count and packing of one row of an input of floats."""

    def __init__(self, spec: TensorSpec) -> None:
        sizes = [size or 0 for size in spec.shape]  # inputs have fixed shapes
        self.shape, self.count = [1, *sizes], math.prod(sizes)
        self.pack = struct.Struct(f"<{self.count}f").pack


_general = msgspec.json.Decoder(InferRequest)
_flat = msgspec.json.Decoder(_FlatRequest)
_encode = msgspec.json.Encoder().encode
_OUTPUTS = b'},"outputs":['  # behind the time in the queue
_NO_QUEUE_US = b"0" + _OUTPUTS + b"]}"  # ends an answer without outputs


class RestCodec:
    """Decodes the requests of one ``family``, of ``max_rows`` rows at most, and encodes their answers.

    ``max_bytes`` is the most that so many rows need. A larger body is refused before it is decoded, as decoding JSON
    holds up the event loop.
    """

    def __init__(self, family: str, signature: Signature, max_rows: int) -> None:
        self.family, self._signature = family, signature
        self.max_bytes = oip.max_bytes(signature, max_rows)
        self._layouts: dict[bytes, _BinaryLayout] = {}
        self._all_outputs = tuple((index, False) for index in range(len(signature.outputs)))
        self._single_row = _SingleRow(signature.inputs[0])
        self._is_flat = len(signature.inputs) == 1 and signature.inputs[0].dtype == np.float32

    def decode(self, body: Buffer, json_length: int | None) -> tuple[Query, ReadInputs]:
        """Decode and check a request but its tensors; and how to read those.

        ``json_length`` is the value of `Inference-Header-Content-Length`: binary tensors follow so many bytes of JSON.
        Raises `BadRequest`, `BodyTooLarge`.
        """
        if len(body) > self.max_bytes:
            raise BodyTooLarge(
                f"a request for `{self.family}` needs at most {self.max_bytes} bytes; got {len(body)}"
                " (binary tensors are smaller than JSON, see Inference-Header-Content-Length)"
            )
        if json_length is not None:
            return self._decode_binary(body, json_length)
        if self._is_flat:
            decoded = self._decode_flat(body)
            if decoded is not None:
                return decoded
        return self._decode_any(_parsed(body), memoryview(b""))

    def _decode_flat(self, body: Buffer) -> tuple[Query, ReadInputs] | None:
        """A request whose one input is a flat list of floats; None for other requests, and wrong ones."""
        try:
            request = _flat.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if len(request.inputs) != 1:
            return None
        tensor = request.inputs[0]
        data, spec = tensor.data, self._signature.inputs[0]
        if data is None or tensor.parameters is not None or tensor.name != spec.name:
            return None
        if tensor.shape == self._single_row.shape and tensor.datatype == "FP32" and len(data) == self._single_row.count:
            rows = 1
        else:
            rows = oip.rows_of(tensor.name, tensor.datatype, tensor.shape, spec)
            _require_count(tensor, len(data))
        read_inputs = partial(self._packed, body, data, rows)
        if request.parameters is None and request.outputs is None:
            return Query(self.family, rows, self._all_outputs, DEFAULT_OPTIONS, request.id), read_inputs
        return self._query(request, rows), read_inputs

    def _packed(self, body: Buffer, data: list[float], rows: int) -> tuple[Buffer, ...]:
        pack = self._single_row.pack if rows == 1 else struct.Struct(f"<{len(data)}f").pack
        try:
            return (pack(*data),)
        except OverflowError:  # the general path makes it infinity
            _, read_inputs = self._decode_any(_parsed(body), memoryview(b""))
            return read_inputs()

    def _decode_binary(self, body: Buffer, json_length: int) -> tuple[Query, ReadInputs]:
        if not 0 <= json_length <= len(body):
            raise BadRequest(f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes")
        head = bytes(body[:json_length])
        layout = self._layouts.get(head)
        if layout is not None and len(body) == json_length + layout.size:
            return layout.query, partial(layout.inputs, body, json_length)
        request = _parsed(head)
        query, read_inputs = self._decode_any(request, memoryview(body)[json_length:])
        self._remember(head, request, query)
        return query, read_inputs

    def _remember(self, head: bytes, request: InferRequest, query: Query) -> None:
        """Keep what the head of a request says, if all its tensors are in bytes."""
        sizes = [_binary_size(tensor) for tensor in request.inputs]
        if len(head) > _LONGEST_KNOWN_HEAD or None in sizes:
            return
        if len(self._layouts) >= _MAX_KNOWN_HEADS:
            self._layouts.clear()
        order = oip.in_order(self._signature, [tensor.name for tensor in request.inputs])
        ends = list(accumulate(size or 0 for size in sizes))
        ranges = tuple((start, end) for start, end in zip([0, *ends], ends, strict=False))
        self._layouts[head] = _BinaryLayout(ends[-1], tuple(ranges[index] for index in order), query)

    def _decode_any(self, request: InferRequest, rest: memoryview) -> tuple[Query, ReadInputs]:
        order = oip.in_order(self._signature, [tensor.name for tensor in request.inputs])
        specs = {spec.name: spec for spec in self._signature.inputs}
        binary, read, rows = _BinaryTensors(rest), list[Callable[[], Buffer]](), list[int]()
        for tensor in request.inputs:
            spec = specs[tensor.name]
            rows.append(oip.rows_of(tensor.name, tensor.datatype, tensor.shape, spec))
            read.append(_reader(tensor, spec, rows[-1], binary))
        binary.require_used_up()
        return self._query(request, oip.require_same(rows)), lambda: tuple([read[index]() for index in order])

    def _query(self, request: InferRequest, rows: int) -> Query:
        return Query(self.family, rows, self._outputs(request), _options(request), request.id)

    def _outputs(self, request: InferRequest) -> tuple[tuple[int, bool], ...]:
        by_default = request.parameters is not None and request.parameters.binary_data_output
        if not request.outputs:
            return tuple((index, by_default) for index, _ in self._all_outputs)
        flags = ((output.name, output.parameters.binary_data) for output in request.outputs)
        wanted = [(name, by_default if is_binary is msgspec.UNSET else is_binary) for name, is_binary in flags]
        return oip.outputs_by_name(self._signature, wanted)

    def encode(self, query: Query, answer: Answered) -> tuple[bytes, list[Buffer]]:
        """The JSON of an answer, and the binary tensors that follow it."""
        memo, rows, first = answer.batch.memo, answer.rows, answer.first
        try:
            before, after, lists, binary = memo[query.outputs, rows]
        except KeyError:
            before, after, lists, binary = memo[query.outputs, rows] = self._shared(query, answer)
        json = before + b"%d" % (answer.queue_s * _US_PER_S) + after
        for values, end in lists:
            json += _encode(values[first] if rows == 1 else list(chain(*values[first : first + rows]))) + end
        if query.id is not None:
            json = b'%b,"id":%b}' % (json[:-1], _encode(query.id))
        return json, [values[first * size : (first + rows) * size] for values, size in binary]

    def _shared(self, query: Query, answer: Answered) -> _SharedAnswer:
        batch, hosted = answer.batch, answer.batch.hosted
        parameters = ResponseParameters(
            variant=hosted.variant,
            accuracy=hosted.accuracy,
            device=hosted.device,
            batch_size=batch.rows,
            compute_us=round(batch.compute_s * _US_PER_S),
            emulated=batch.is_emulated,
            queue_us=0,
        )
        before = _encode(InferResponse(self.family, oip.VERSION, parameters, [])).removesuffix(_NO_QUEUE_US)
        lists, binary, texts = list[list[list[Any]]](), list[tuple[Buffer, int]](), [_OUTPUTS]
        for place, (index, as_binary) in enumerate(query.outputs):
            values, spec = batch.outputs[index], self._signature.outputs[index]
            tensor = ResponseTensor(spec.name, oip.DATATYPE_OF[values.dtype], [answer.rows, *values.shape[1:]])
            if place:
                texts[-1] += b","
            if as_binary:
                content, row_bytes = batch.content(index)
                binary.append((content, row_bytes))
                size = ResponseTensorParameters(row_bytes * answer.rows)
                texts[-1] += _encode(msgspec.structs.replace(tensor, parameters=size))
            else:
                lists.append(_lists(batch, index))
                texts[-1] += _encode(tensor)[:-1] + b',"data":'
                texts.append(b"}")
        texts[-1] += b"]}"
        return _SharedAnswer(before, texts[0], list(zip(lists, texts[1:], strict=True)), binary)


def _lists(batch: AnsweredBatch, index: int) -> list[list[Any]]:
    """Each row of an output as a flat list; made once for a batch."""
    key = ("lists", index)
    if key not in batch.memo:
        values = batch.outputs[index]
        batch.memo[key] = values.reshape(len(values), -1).tolist()
    found: list[list[Any]] = batch.memo[key]
    return found


def _options(request: InferRequest) -> RequestOptions:
    return DEFAULT_OPTIONS if request.parameters is None else request.parameters.options()


def _binary_size(tensor: RequestTensor) -> int | None:
    """The bytes of an input behind the JSON; None where its values are in the JSON."""
    return None if tensor.parameters is None else tensor.parameters.binary_data_size


def _parsed(content: Buffer) -> InferRequest:
    try:
        return _general.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"not a valid inference request: {error}") from None


class _BinaryTensors:
    """The binary tensors behind the JSON, in the order of the request."""

    def __init__(self, rest: memoryview) -> None:
        self._rest = rest

    def take(self, size: int, name: str) -> memoryview:
        if size > len(self._rest):
            raise BadRequest(f"input `{name}` claims {size} bytes of binary data; {len(self._rest)} are left")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def require_used_up(self) -> None:
        if len(self._rest):
            raise BadRequest(f"{len(self._rest)} bytes of binary data belong to no input")


def _reader(tensor: RequestTensor, spec: TensorSpec, rows: int, binary: _BinaryTensors) -> Callable[[], Buffer]:
    """How to read the values of an input, as bytes."""
    size = _binary_size(tensor)
    if size is None:
        return partial(_from_json, tensor, spec)
    if tensor.data is not None:
        raise BadRequest(f"input `{tensor.name}` has both `data` and `binary_data_size`; give one of them")
    values = binary.take(size, tensor.name)
    oip.require_bytes(tensor.name, size, rows, spec)
    return lambda: values


def _from_json(tensor: RequestTensor, spec: TensorSpec) -> bytes:
    if not isinstance(tensor.data, list):
        raise BadRequest(f"input `{tensor.name}` needs `data`: a list of numbers")
    # A list that is too long is refused before it is converted, as it must cost nothing.
    if len(tensor.data) > math.prod(tensor.shape):
        _require_count(tensor, len(tensor.data))
    try:
        values = np.asarray(tensor.data)
    except (ValueError, OverflowError):
        raise BadRequest(f"input `{tensor.name}`: `data` must be a flat or evenly nested list of numbers") from None
    if spec.dtype == np.uint64 and values.dtype.kind == "f":
        values = _as_uint64(tensor.data, values)
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


def _require_count(tensor: RequestTensor, count: int) -> None:
    needed = math.prod(tensor.shape)
    if count != needed:
        raise BadRequest(f"input `{tensor.name}` has {count} values; its shape {tensor.shape} needs {needed}")


def _as_uint64(data: Sequence[Any], values: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Integers on both sides of 2⁶³, which numpy reads as floats, as uint64; ``values`` where some are no integers."""
    entries = np.asarray(data, dtype=object)
    is_whole = all(type(entry) is int and 0 <= entry < 2**64 for entry in entries.flat)
    return entries.astype(np.uint64) if is_whole else values
