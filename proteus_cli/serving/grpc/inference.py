"""`ModelInfer` between bytes and values: the protobuf encoding of what comes with every request is done here.

A client's requests differ in their tensors and little else. So the bytes of the tensors and the id are told apart by
the tags before them, and what the rest says is remembered by its bytes; protobuf decodes only what wasn't seen before.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.errors import BadRequest, UnknownModel
from proteus_cli.serving import oip
from proteus_cli.serving.dataplane import DataPlane
from proteus_cli.serving.grpc.messages import ModelInferRequest, ModelInferResponse
from proteus_cli.serving.oip import DATATYPE_OF, Buffer, Options, Query
from proteus_cli.serving.pending import Answered

_LENGTH_DELIMITED = 2
_ID, _RAW_INPUT, _RAW_OUTPUT = 0x1A, 0x3A, 0x32  # tags of fields 3 and 7 of a request, and 6 of an answer
_MORE = 0x80
_MOST_KNOWN, _LARGEST_KNOWN = 1024, 1024
_US_PER_S = 1e6
_CONTENTS = {
    "BOOL": "bool_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A request but for its tensors and id: ``places[i]`` is where input i of the signature stands among the tensors.

    ``sizes`` are the bytes of each, in the order of the signature.
    """

    family: str
    places: tuple[int, ...]
    sizes: tuple[int, ...]
    rows: int
    outputs: tuple[tuple[int, bool], ...]
    options: Options


class Codec:
    """Decodes requests for the families of a data plane, and encodes their answers."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._known: dict[bytes, Head] = {}
        self._heads: dict[Any, bytes] = {}

    def decode(self, message: Buffer, timeout_s: float | None) -> tuple[str, Query]:
        """The family and what is asked of it; ``timeout_s`` is the call's own. Raises `BadRequest`, `UnknownModel`."""
        rest, request_id, raw = _split(message)
        head = self._known.get(rest)
        if head is None:
            decoded = _parse(rest)
            if not raw:
                return self._typed(decoded, request_id, timeout_s)
            if any(tensor.HasField("contents") for tensor in decoded.inputs):
                raise BadRequest("tensors come either all in raw_input_contents, or all in contents")
            head = self._head(decoded)
            self._remember(rest, head)
        if len(raw) != len(head.places):
            raise BadRequest(f"raw_input_contents must hold {len(head.places)} tensors; got {len(raw)}")
        if len(raw) == 1:
            inputs: tuple[Buffer, ...] = (raw[0],)
        else:
            inputs = tuple([raw[place] for place in head.places])
        for at, size in enumerate(head.sizes):
            if len(inputs[at]) != size:
                spec = self._plane.signatures[head.family].inputs[at]
                oip.require_bytes(spec.name, len(inputs[at]), head.rows, spec)
        return head.family, Query(inputs, head.rows, head.outputs, _sooner(head.options, timeout_s), request_id)

    def _remember(self, rest: bytes, head: Head) -> None:
        if len(rest) <= _LARGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[rest] = head

    def _typed(self, request: Any, request_id: str | None, timeout_s: float | None) -> tuple[str, Query]:
        """A request whose tensors are in `contents`."""
        head = self._head(request)
        specs = self._plane.signatures[head.family].inputs
        inputs = tuple(
            _contents(request.inputs[place], spec, head.rows) for place, spec in zip(head.places, specs, strict=True)
        )
        return head.family, Query(inputs, head.rows, head.outputs, _sooner(head.options, timeout_s), request_id)

    def _head(self, request: Any) -> Head:
        signature = self._plane.require_family(request.model_name)
        if request.model_version not in {"", oip.VERSION}:
            raise UnknownModel(
                f"`{request.model_name}` has no version `{request.model_version}`; there is `{oip.VERSION}`"
            )
        tensors = request.inputs
        places = oip.in_order(signature, [tensor.name for tensor in tensors])
        rows = oip.require_same(
            [
                oip.rows_of(spec.name, tensors[place].datatype, tensors[place].shape, spec)
                for place, spec in zip(places, signature.inputs, strict=True)
            ]
        )
        sizes = tuple([rows * _row_bytes(spec) for spec in signature.inputs])
        outputs = _outputs(request, signature)
        return Head(request.model_name, places, sizes, rows, outputs, oip.options(_parameters(request.parameters)))

    def encode(self, query: Query, answered: Answered) -> bytes:
        """The answer, serialized."""
        batch = answered.batch
        values = answered.outputs
        key = (batch.hosted, query.outputs, *[output.shape for output in values])
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MOST_KNOWN:
                self._heads.clear()
            self._heads[key] = head = _answer_head(self._plane, query, answered)
        parts = [
            head,
            _whole("batch_size", batch.rows),
            _whole("queue_us", round(answered.queue_s * _US_PER_S)),
            _whole("compute_us", round(batch.compute_s * _US_PER_S)),
        ]
        if query.id is not None:
            encoded = query.id.encode()
            parts += (bytes((_ID,)), _varint(len(encoded)), encoded)
        for place, _ in query.outputs:
            content = values[place].tobytes()
            parts += (bytes((_RAW_OUTPUT,)), _varint(len(content)), content)
        return b"".join(parts)


def _split(message: Buffer) -> tuple[bytes, str | None, list[Buffer]]:
    """All but id and raw tensors; these two. Raises `BadRequest`."""
    rest: list[Buffer] = []
    raw: list[Buffer] = []
    request_id = None
    at, end = 0, len(message)
    try:
        while at < end:
            first, tag = at, message[at]
            size = message[at + 1]
            at += 2
            if tag & 7 != _LENGTH_DELIMITED or tag >= _MORE:  # no field of a request: left to protobuf, which knows
                return _split_parsed(message)
            if size >= _MORE:
                size, at = _long_varint(message, at - 1)
            first_of_value, at = at, at + size
            if at > end:
                raise IndexError  # noqa: TRY301 - as where a length is cut off
            if tag == _RAW_INPUT:
                raw.append(message[first_of_value:at])
            elif tag == _ID:
                request_id = str(message[first_of_value:at], "utf-8") or None
            else:
                rest.append(message[first:at])
    except IndexError:
        raise BadRequest("the message is cut off") from None
    except UnicodeDecodeError:
        raise BadRequest("the id is not valid UTF-8") from None
    return b"".join(rest), request_id, raw


def _split_parsed(message: Buffer) -> tuple[bytes, str | None, list[Buffer]]:
    request = _parse(message)
    raw, request_id = list(request.raw_input_contents), request.id or None
    request.ClearField("raw_input_contents")
    request.ClearField("id")
    return request.SerializeToString(deterministic=True), request_id, raw


def _long_varint(message: Buffer, at: int) -> tuple[int, int]:
    """A length of more than one byte, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < _MORE:
            return value, at
        if shift > 28:  # noqa: PLR2004 - no message is longer than 2³² bytes
            raise BadRequest("a length in the message makes no sense")


def _parse(message: Buffer) -> Any:
    try:
        return ModelInferRequest.FromString(message)
    except DecodeError:
        raise BadRequest("the message is not a ModelInferRequest") from None


def _sooner(options: Options, timeout_s: float | None) -> Options:
    """With the call's own deadline, where that comes first."""
    if timeout_s is None or (options.timeout_s is not None and options.timeout_s <= timeout_s):
        return options
    return replace(options, timeout_s=timeout_s)


def _row_bytes(spec: TensorSpec) -> int:
    return math.prod(size for size in spec.shape if size is not None) * spec.dtype.itemsize  # inputs' are all fixed


def _outputs(request: Any, signature: Signature) -> tuple[tuple[int, bool], ...]:
    names = [output.name for output in request.outputs] or [spec.name for spec in signature.outputs]
    return oip.outputs_by_name(signature, [(name, True) for name in names])


def _parameters(entries: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, parameter in entries.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(parameter, kind)
    return found


def _contents(tensor: Any, spec: TensorSpec, rows: int) -> bytes:
    """The values of a tensor that come as numbers. Raises `BadRequest`."""
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        raise BadRequest(f"input `{tensor.name}`: {tensor.datatype} has no typed contents; use raw_input_contents")
    present = [field.name for field, _ in tensor.contents.ListFields()]
    if present not in ([name], []):
        raise BadRequest(f"input `{tensor.name}`: {tensor.datatype} comes as {name}, not {', '.join(present)}")
    numbers = getattr(tensor.contents, name)
    needed = rows * _row_bytes(spec) // spec.dtype.itemsize
    if len(numbers) != needed:
        raise BadRequest(f"input `{tensor.name}` has {len(numbers)} values; its shape needs {needed}")
    values = np.array(
        numbers, np.int64 if name == "int_contents" else np.uint64 if name == "uint_contents" else spec.dtype
    )
    if name in {"int_contents", "uint_contents"}:
        limits = np.iinfo(spec.dtype)
        if values.size and (values.min() < limits.min or values.max() > limits.max):
            raise BadRequest(f"input `{tensor.name}`: values don't fit {tensor.datatype}")
        values = values.astype(spec.dtype)
    return values.tobytes()


# --- the answer's bytes


def _answer_head(plane: DataPlane, query: Query, answered: Answered) -> bytes:
    """All that answers of the same variant and shapes have in common."""
    hosted, specs = answered.batch.hosted, plane.signatures[answered.batch.hosted.family].outputs
    head = ModelInferResponse(model_name=hosted.family, model_version=oip.VERSION)
    head.parameters["variant"].string_param = hosted.variant
    head.parameters["accuracy"].double_param = hosted.accuracy
    head.parameters["device"].string_param = hosted.device
    for place, _ in query.outputs:
        values = answered.outputs[place]
        head.outputs.add(name=specs[place].name, datatype=DATATYPE_OF[values.dtype], shape=values.shape)
    return bytes(head.SerializeToString(deterministic=True))


def _whole(name: str, value: int) -> bytes:
    """One entry of `parameters` with a whole number: {1: name, 2: {2: value}} in field 4."""
    number = _varint(value)
    return _ENTRIES[name][len(number)] + number


def _varint(value: int) -> bytes:
    if value < _MORE:
        return bytes((value,))
    encoded = bytearray()
    while value >= _MORE:
        encoded.append(value & 0x7F | _MORE)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _entry_prefix(name: str, size: int) -> bytes:
    """All of such an entry before a number of ``size`` bytes."""
    key = b"\x0a" + bytes((len(name),)) + name.encode()
    entry = key + b"\x12" + bytes((size + 1,)) + b"\x10"
    return b"\x22" + bytes((len(entry) + size,)) + entry


_LONGEST_VARINT = 10
_ENTRIES: Mapping[str, Sequence[bytes]] = {
    name: [_entry_prefix(name, size) for size in range(_LONGEST_VARINT + 1)]
    for name in ("batch_size", "queue_us", "compute_us")
}
