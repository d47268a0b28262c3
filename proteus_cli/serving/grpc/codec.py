"""Inference requests and answers over gRPC: decodes `ModelInferRequest`, encodes `ModelInferResponse`.

The requests of a client differ in their tensors and little else. The codec remembers the meaning of the rest by its
bytes, and protobuf decodes only bytes that are new.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from msgspec import to_builtins
from msgspec.structs import replace

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.buffers import Buffer
from proteus_cli.errors import BadRequest, BodyTooLarge
from proteus_cli.serving.grpc.messages import (
    ModelInferRequest,
    ModelInferResponse,
    integer_parameter,
    parsed,
    require_few_fields,
    split_request,
    varint,
)
from proteus_cli.serving.memory import remember
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.oip.images import places_and_rows, read_images
from proteus_cli.serving.oip.parameters import (
    InputParameters,
    OutputParameters,
    RequestParameters,
    checked,
    response_parameters,
)
from proteus_cli.serving.oip.tensors import DATATYPE_OF, highest_classes, packed, wants_classes
from proteus_cli.serving.requests.families import Families
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch
from proteus_cli.serving.requests.query import Classes, Decoded, Form, Inputs, InThreads, Query, RequestOptions

_ID, _RAW_OUTPUT = b"\x1a", b"\x32"  # tags of fields 3 and 6 of an answer
_MAX_KNOWN = 1024  # heads and starts of requests, and heads of answers
_MAX_HEAD_BYTES = 1024  # of a request's head that is remembered
LONG_TYPED_BYTES = 16 * 1024  # of a message whose typed contents are read in a turn of its own
_US_PER_S = 1e6
_CONTENTS = {
    "BOOL": "bool_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
}  # fmt: skip

_OF_EACH = frozenset({"batch_size", "compute_us", "queue_us"})  # written behind what many answers share
_KINDS = {str: "string_param", float: "double_param", int: "int64_param", bool: "bool_param"}
_WIDE = {"int_contents": np.int64, "uint_contents": np.uint64}  # hold the values of smaller datatypes, too


@dataclass(frozen=True, slots=True, eq=False)
class RequestHead:
    """All of a request besides its tensors and id.

    ``places`` and ``sizes`` are in the order of the signature: the index of each input among the request's tensors, and
    its bytes; no sizes, where the one input is of images. ``usual`` is the query without an id and a deadline.
    """

    places: tuple[int, ...]
    sizes: tuple[int, ...]
    usual: Query

    def query(self, request_id: str | None, timeout_s: float | None) -> Query:
        """The query of a request; ``timeout_s`` is the deadline of its call."""
        if request_id is None and timeout_s is None:
            return self.usual
        return replace(self.usual, options=_with_deadline(self.usual.options, timeout_s), id=request_id)


class GrpcCodec:
    """Decodes requests for the families, and encodes their answers."""

    def __init__(self, families: Families) -> None:
        self._families, self._require = families.by_name, families.require
        self._known: dict[bytes, RequestHead] = {}
        self._starts: dict[int, tuple[bytes, Query]] = {}  # by the size of the request
        self._heads: dict[Any, bytes] = {}

    def forget(self) -> None:
        """Forget what requests and answers were like: the families have changed."""
        for known in (self._known, self._starts, self._heads):
            known.clear()

    @staticmethod
    def has_long_contents(message: Buffer) -> bool:
        """Whether a message has many numbers in `contents`, which take long to read. Raises `BadRequest`."""
        return len(message) > LONG_TYPED_BYTES and not split_request(message)[2]

    def decode(self, message: Buffer, timeout_s: float | None) -> Decoded:
        """The query, and how to read its tensors. ``timeout_s`` is the deadline of the call.

        Most requests start to the byte like the last one of their size, and end in the bytes of their one tensor.

        Raises `BadRequest`, `BodyTooLarge`, `UnknownModel`.
        """
        like = self._starts.get(len(message))
        if like is not None and timeout_s is None and message[: len(like[0])] == like[0]:
            start, query = like
            return query, partial(tuple, (message[len(start) :],))
        fields, request_id, raw, tail = split_request(message)
        rest = b"".join(fields)
        head = self._known.get(rest) if raw and len(rest) <= _MAX_HEAD_BYTES else None
        if head is None:
            _require_size(len(rest), is_typed=not raw)
            require_few_fields(fields)
            request = parsed(ModelInferRequest, rest, "a ModelInferRequest")
            head = self._head(request)
            if not raw:
                if not head.sizes:
                    raise BadRequest("images come in raw_input_contents")
                return head.query(request_id, timeout_s), partial(self._typed, request, head)
            if any(tensor.HasField("contents") for tensor in request.inputs):
                raise BadRequest("tensors come either all in raw_input_contents, or all in contents")
            if len(rest) <= _MAX_HEAD_BYTES:
                remember(self._known, rest, head, _MAX_KNOWN)
        if not head.sizes:
            return head.query(request_id, timeout_s), self._images(raw, head)
        if 0 <= tail <= _MAX_HEAD_BYTES and request_id is None and (len(raw[0]),) == head.sizes:
            remember(self._starts, len(message), (bytes(message[:tail]), head.usual), _MAX_KNOWN)
        return head.query(request_id, timeout_s), partial(self._raw, raw, head)

    def _raw(self, raw: Sequence[Buffer], head: RequestHead) -> tuple[Buffer, ...]:
        """The inputs of a request whose tensors are bytes in `raw_input_contents`."""
        if len(raw) != len(head.places):
            raise BadRequest(f"raw_input_contents must hold {len(head.places)} tensors; got {len(raw)}")
        inputs = (raw[0],) if len(raw) == 1 else tuple([raw[place] for place in head.places])
        for at, size in enumerate(head.sizes):
            if len(inputs[at]) != size:
                spec = self._families[head.usual.family].signature.inputs[at]
                oip.require_bytes(spec.name, len(inputs[at]), head.usual.rows, spec)
        return inputs

    def _images(self, raw: Sequence[Buffer], head: RequestHead) -> InThreads[Inputs]:
        """How to read the one input of a request that has images."""
        family, rows = self._families[head.usual.family], head.usual.rows
        if len(raw) != 1:
            raise BadRequest(f"raw_input_contents must hold 1 tensor of images; got {len(raw)}")
        assert family.image is not None  # noqa: S101 - only of a family with one the sizes are unknown
        return InThreads(read_images(raw[0], rows, family.image), rows * family.signature.inputs[0].row_bytes)

    def _typed(self, request: Any, head: RequestHead) -> Inputs:
        """The inputs of a request whose tensors are numbers in `contents`."""
        specs, rows = self._families[head.usual.family].signature.inputs, head.usual.rows
        pairs = zip(head.places, specs, strict=True)
        return tuple([_contents(request.inputs[place], spec, rows) for place, spec in pairs])

    def _head(self, request: Any) -> RequestHead:
        family = self._require(request.model_name)
        signature = family.signature
        version = family.asked_version(request.model_version)
        tensors = request.inputs
        places, rows, has_images = places_and_rows(signature, family.image, tensors)
        sizes = () if has_images else tuple([rows * spec.row_bytes for spec in signature.inputs])
        for tensor in tensors:
            checked(_parameters(tensor.parameters), InputParameters)
        outputs = _outputs(request, signature)
        oip.require_encodable(signature, outputs, rows)
        options = checked(_parameters(request.parameters), RequestParameters).options(version)
        return RequestHead(places, sizes, Query(request.model_name, rows, outputs, options))

    def encode(self, query: Query, answered: Answered) -> bytes:
        """The answer, serialized."""
        batch, first, rows = answered.batch, answered.first, answered.rows
        key = ("grpc", query.outputs, rows)
        head = batch.memo.get(key)
        if head is None:
            if wants_classes(query):
                return self._with_classes(query, answered)
            head = batch.memo[key] = self._answer_head(query, answered)
        parts: list[Buffer] = [head, integer_parameter("queue_us", round(answered.queue_s * _US_PER_S))]
        if query.id is not None:
            encoded = query.id.encode()
            parts += (_ID, varint(len(encoded)), encoded)
        for place, _ in query.outputs:
            content, row_bytes = batch.content(place)
            parts += (_RAW_OUTPUT, varint(rows * row_bytes), content[first * row_bytes : (first + rows) * row_bytes])
        return b"".join(parts)

    def _with_classes(self, query: Query, answered: Answered) -> bytes:
        """An answer that has the classes of some outputs."""
        head = self._answer_head(query, answered)
        parts: list[Buffer] = [head, integer_parameter("queue_us", round(answered.queue_s * _US_PER_S))]
        if query.id is not None:
            encoded = query.id.encode()
            parts += (_ID, varint(len(encoded)), encoded)
        for place, form in query.outputs:
            values = answered.outputs[place]
            if isinstance(form, Classes):
                labels = self._families[query.family].labels if place == 0 else ()
                content = packed(highest_classes(values, form.count, labels))
            else:
                content = values.tobytes()
            parts += (_RAW_OUTPUT, varint(len(content)), content)
        return b"".join(parts)

    def _answer_head(self, query: Query, answered: Answered) -> bytes:
        """The part that answers of one batch with as many rows share."""
        batch = answered.batch
        shapes = [
            (answered.rows, *((form.count,) if isinstance(form, Classes) else batch.outputs[place].shape[1:]))
            for place, form in query.outputs
        ]
        key = (batch.hosted, batch.version, query.outputs, *shapes)
        known = self._heads.get(key) if batch.staged is None else None
        if known is None:
            of_family = self._families[batch.hosted.family].signature.outputs
            tensors = [
                (spec.name, oip.STRINGS if isinstance(form, Classes) else DATATYPE_OF[spec.dtype], shape)
                for (place, form), shape in zip(query.outputs, shapes, strict=True)
                for spec in [of_family[place]]
            ]
            known = _described(batch, tensors)
            if batch.staged is None:
                remember(self._heads, key, known, _MAX_KNOWN)
        return (
            known
            + integer_parameter("batch_size", batch.rows)
            + integer_parameter("compute_us", round(batch.compute_s * _US_PER_S))
        )


def _with_deadline(options: RequestOptions, timeout_s: float | None) -> RequestOptions:
    """The options with the deadline of the call, if it comes first."""
    if timeout_s is None or (options.timeout_s is not None and options.timeout_s <= timeout_s):
        return options
    return replace(options, timeout_s=timeout_s, is_left_of_call=True, asked_timeout_s=options.timeout_s)


def _outputs(request: Any, signature: Signature) -> tuple[tuple[int, Form], ...]:
    """The wanted outputs; their values, and the texts of classes, are always binary."""
    wanted: list[tuple[str, Form]] = []
    for output in request.outputs:
        parameters = checked(_parameters(output.parameters), OutputParameters)
        wanted.append((output.name, replace(parameters, binary_data=True).form(binary_by_default=True)))
    return oip.outputs_by_name(signature, wanted or [(spec.name, True) for spec in signature.outputs])


def _parameters(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by name; None where one has no value."""
    kinds = {name: parameter.WhichOneof("parameter_choice") for name, parameter in entries.items()}
    return {name: None if kind is None else getattr(entries[name], kind) for name, kind in kinds.items()}


def _contents(tensor: Any, spec: TensorSpec, rows: int) -> Buffer:
    """The bytes of a tensor whose values come as numbers. Raises `BadRequest`."""
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        raise BadRequest(f"input `{tensor.name}`: {tensor.datatype} has no typed contents; use raw_input_contents")
    present = [field.name for field, _ in tensor.contents.ListFields()]
    if present not in ([name], []):
        raise BadRequest(f"input `{tensor.name}`: {tensor.datatype} comes as {name}, not {', '.join(present)}")
    numbers, needed = getattr(tensor.contents, name), rows * spec.row_bytes // spec.dtype.itemsize
    if len(numbers) != needed:
        raise BadRequest(f"input `{tensor.name}` has {len(numbers)} values; its shape needs {needed}")
    wide = np.fromiter(numbers, _WIDE.get(name, spec.dtype), needed)
    if name in _WIDE and len(wide):
        limits = np.iinfo(spec.dtype)
        if wide.min() < limits.min or wide.max() > limits.max:
            raise BadRequest(f"input `{tensor.name}`: values don't fit {tensor.datatype}")
    return wide.astype(spec.dtype, copy=False).data.cast("B")


def _require_size(size: int, *, is_typed: bool) -> None:
    """Raise where all of a message but its raw tensors takes too long, or too much memory, to parse."""
    if is_typed and size > oip.MAX_TYPED_BYTES:
        raise BodyTooLarge(
            f"a message with typed contents may have at most {oip.MAX_TYPED_BYTES:,} bytes; got {size:,}: send binary"
            " tensors, in raw_input_contents"
        )
    if not is_typed and size > oip.OTHER_BYTES:
        raise BadRequest(f"the message has more than {oip.OTHER_BYTES} bytes besides its tensors")


def _described(batch: AnsweredBatch, tensors: Iterable[tuple[str, str, Sequence[int]]]) -> bytes:
    """The part that answers of one variant with the same outputs (name, datatype, shape) share."""
    head = ModelInferResponse(model_name=batch.hosted.family, model_version=batch.version)
    for name, value in to_builtins(response_parameters(batch)).items():
        if name not in _OF_EACH:
            setattr(head.parameters[name], _KINDS[type(value)], value)
    for name, datatype, shape in tensors:
        head.outputs.add(name=name, datatype=datatype, shape=shape)
    return bytes(head.SerializeToString(deterministic=True))
