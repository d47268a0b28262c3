"""Inference requests and answers over REST: JSON, and the binary tensor extension.

What the outline of a request says is remembered, so usually only its values are decoded. Source: the protocol's
"HTTP/REST" document, and Triton's "Binary Tensor Data Extension".

Answers, values, bodies and images have modules of their own.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import msgspec

from proteus_cli.backends.base import Signature
from proteus_cli.buffers import Buffer
from proteus_cli.domain.catalog import ImageInput
from proteus_cli.domain.request import AskedVersion
from proteus_cli.errors import BadRequest, BodyTooLarge
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.oip.images import image_rows, max_bytes, may_be_encoded, read_image, read_images
from proteus_cli.serving.oip.parameters import OutputParameters, problem, request_options
from proteus_cli.serving.requests.in_flight import Answered
from proteus_cli.serving.requests.query import (
    Form,
    InOneTurn,
    Inputs,
    InThreads,
    LongReadInputs,
    Query,
    ReadInputs,
)
from proteus_cli.serving.rest.codec.answers import AnswerEncoder, EncodedAnswer
from proteus_cli.serving.rest.codec.bodies import (
    InferRequest,
    RequestTensor,
)
from proteus_cli.serving.rest.codec.json_values import JsonValues
from proteus_cli.serving.rest.codec.outline import (
    ID_PLACEHOLDER,
    CutRequest,
    array_of,
    cut,
    decoded_id,
    require_unique_names,
)
from proteus_cli.serving.transport.memo import remember

_MAX_KNOWN = 256  # outlines, by family
_LONGEST_KNOWN = 2048
_SMALL_BYTES = 16 * 1024  # are copied, which costs less than a view
_AT_ONCE_BYTES = 128 * 1024  # of JSON that does not wait for a turn of the event loop of its own

DecodedRequest = tuple[Query, ReadInputs | LongReadInputs]
"""What is asked, and how to read the tensors."""


class _Source(NamedTuple):
    """Where the values of an input are: which array of the JSON; or, if that is -1, in which bytes behind it."""

    array: int
    start: int
    end: int


class _Layout(msgspec.Struct, frozen=True):
    """What an outline says: where the inputs are, how many bytes follow the JSON, and the query.

    Sources are in the order of the signature. ``has_id``: the id is one that was cut out, else it is the query's.
    ``has_images``: the one input is of images.
    """

    sources: tuple[_Source, ...]
    binary_bytes: int
    query: Query
    has_id: bool
    has_images: bool

    def slices(self, body: bytes | bytearray, json_length: int) -> tuple[Buffer, ...]:
        """The inputs of a request that has all of them behind its JSON."""
        content: Buffer = memoryview(body) if self.binary_bytes > _SMALL_BYTES else body
        inputs = []
        for _, start, end in self.sources:  # as in `AnswerEncoder.encode`
            inputs.append(content[json_length + start : json_length + end])
        return tuple(inputs)


class _Last(msgspec.Struct, frozen=True):
    """The outline of the last request: one array and at most one id, between ``head``, ``middle`` and ``tail``."""

    head: bytes
    middle: bytes
    tail: bytes
    id_at: int
    query: Query


_decode_outline = msgspec.json.Decoder(InferRequest).decode
_encode = msgspec.json.Encoder().encode


class RestCodec:
    """Decodes the requests of one ``family``, of ``max_rows`` rows at most, and encodes their answers.

    ``max_bytes`` is the most that so many rows need, ``max_json_bytes`` the most of it that may be JSON. A larger body
    is refused before it is decoded. The classes of the first output have ``labels``. In place of the pixels of an
    ``image``, clients may send images, which are binary tensors. All requests ask for the ``version``; None: any.
    """

    def __init__(
        self,
        family: str,
        signature: Signature,
        max_rows: int,
        labels: Sequence[str] = (),
        image: ImageInput | None = None,
        version: AskedVersion | None = None,
    ) -> None:
        self.family, self._signature, self._image, self._version = family, signature, image, version
        self._answers = AnswerEncoder(family, signature, labels)
        self.max_bytes = max_bytes(signature, max_rows, image)
        self.max_json_bytes = min(oip.max_bytes(signature, max_rows), oip.MAX_JSON_BYTES)
        self._layouts: dict[tuple[bytes | int, ...], _Layout] = {}
        self._starts: dict[int, tuple[bytes, _Layout]] = {}  # JSON before binary tensors, by the size of the request
        self._last: _Last | None = None
        self._values = tuple(JsonValues(spec) for spec in signature.inputs)
        self._all_outputs = tuple((index, False) for index in range(len(signature.outputs)))

    def decode(self, body: bytes | bytearray, json_length: int | None) -> DecodedRequest:
        """Decode and check a request but its tensors.

        ``json_length`` is the value of `Inference-Header-Content-Length`: binary tensors follow so many bytes of JSON.
        Raises `BadRequest`, `BodyTooLarge`.
        """
        size = len(body)
        if size > self.max_bytes:
            raise self._too_large("bytes", self.max_bytes, size)
        json_bytes = size if json_length is None else json_length
        if not 0 <= json_bytes <= size:
            raise BadRequest(f"Inference-Header-Content-Length is {json_length}, but the body has {size} bytes")
        if json_bytes > self.max_json_bytes:
            raise self._too_large("bytes of JSON", self.max_json_bytes, json_bytes)
        if json_length is None:
            return self._like_last(body) or self._decoded(body, size)
        start, layout = self._starts.get(size, (b"", None))
        if layout is not None and len(start) == json_length and body.startswith(start):
            return layout.query, partial(layout.slices, body, json_length)
        return self._decoded(body, json_length)

    def decode_image(self, body: bytes | bytearray) -> DecodedRequest:
        """A request for one row whose body is a JPEG or PNG file. Raises `BadRequest`, and `BodyTooLarge`."""
        if self._image is None or not may_be_encoded(self._image):
            raise BadRequest(f"`{self.family}` takes no images: send its tensors as JSON or binary")
        if len(body) > self.max_bytes:
            raise self._too_large("bytes", self.max_bytes, len(body))
        query = Query(self.family, 1, self._all_outputs, request_options(None, self._version), None)
        return query, InThreads(read_image(body, self._image), self._signature.inputs[0].row_bytes)

    def _too_large(self, what: str, most: int, size: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"a request for `{self.family}` may have at most {most} {what}; got {size}"
            " (send binary tensors, which are smaller than JSON: see Inference-Header-Content-Length)"
        )

    def _like_last(self, body: bytes | bytearray) -> tuple[Query, ReadInputs] | None:
        """A short request whose outline is that of the last one, with one array; None for others."""
        last = self._last
        if last is None or len(body) > _AT_ONCE_BYTES or not (body.startswith(last.head) and body.endswith(last.tail)):
            return None
        start, end, query = len(last.head), len(body) - len(last.tail), last.query
        if last.id_at >= 0:
            at = body.find(last.middle, start, end) if last.id_at == 0 else body.rfind(last.middle, start, end)
            behind = at + len(last.middle)
            if at < 0:
                return None
            if last.id_at == 0:
                identity, start = decoded_id(body[start:at]), behind
            else:
                identity, end = decoded_id(body[behind:end]), at
            if identity is None:
                return None
            query = _with_id(query, identity)
        # Names are quoted, so what begins and ends as an array here, and has no quotes, is one array or malformed.
        if body[start : start + 1] != b"[" or body[end - 1 : end] != b"]" or body.find(b'"', start, end) >= 0:
            return None
        return query, partial(self._values[0].read, body, start, end, query.rows)

    def _decoded(self, body: bytes | bytearray, json_length: int) -> DecodedRequest:
        binary_bytes = len(body) - json_length
        request = cut(body, json_length)
        layout = self._layouts.get(request.key)
        if layout is None or layout.binary_bytes != binary_bytes:
            layout = self._layout(request, binary_bytes)
            if sum(map(len, request.pieces)) <= _LONGEST_KNOWN:
                remember(self._layouts, request.key, layout, _MAX_KNOWN)
        query = layout.query if request.id is None or not layout.has_id else _with_id(layout.query, request.id)
        if layout.has_images:
            return query, self._images(layout, body, json_length)
        if not request.arrays and request.id is None and json_length <= _LONGEST_KNOWN:
            remember(self._starts, len(body), (request.pieces[0], layout), _MAX_KNOWN)
        self._last = _last(request, layout)
        if json_length > _AT_ONCE_BYTES:
            of_json = (values for values, source in zip(self._values, layout.sources, strict=True) if source.array >= 0)
            memory_bytes = query.rows * sum(values.row_bytes for values in of_json)
            return query, InOneTurn(partial(self._read, layout, body, json_length, request.arrays), memory_bytes)
        if self._last is not None:
            return query, partial(self._values[0].read, body, *request.arrays[0], query.rows)
        return query, partial(self._read, layout, body, json_length, request.arrays)

    def _images(self, layout: _Layout, body: bytes | bytearray, json_length: int) -> InThreads[Inputs]:
        """How to read the one input of a request that has images."""
        assert self._image is not None  # noqa: S101 - only a family with one has such a layout
        (images,), rows = layout.slices(body, json_length), layout.query.rows
        return InThreads(read_images(images, rows, self._image), rows * self._signature.inputs[0].row_bytes)

    def _read(
        self, layout: _Layout, body: bytes | bytearray, json_length: int, arrays: Sequence[tuple[int, int]]
    ) -> Inputs:
        inputs: list[Buffer] = []
        for values, (array, start, end) in zip(self._values, layout.sources, strict=True):
            if array < 0:
                inputs.append(memoryview(body)[json_length + start : json_length + end])
            else:
                inputs += values.read(body, *arrays[array], layout.query.rows)
        return tuple(inputs)

    def _layout(self, request: CutRequest, binary_bytes: int) -> _Layout:
        """Decode and check an outline. Raises `BadRequest`."""
        outline = request.outline()
        decoded = _parsed(outline)
        require_unique_names(outline, _encode(decoded))
        order = oip.in_order(self._signature, [tensor.name for tensor in decoded.inputs])
        first = decoded.inputs[0]
        has_images = first.datatype == oip.STRINGS and may_be_encoded(self._image)
        rows = image_rows(first.name, first.shape) if has_images else oip.require_same(
            [
                oip.rows_of(spec.name, decoded.inputs[place].datatype, decoded.inputs[place].shape, spec)
                for place, spec in zip(order, self._signature.inputs, strict=True)
            ]
        )  # fmt: skip
        sources: list[_Source] = []
        at = 0
        for tensor in decoded.inputs:
            size = _binary_size(tensor)
            if size is None and has_images:
                raise BadRequest(f"images are not taken in JSON: send input `{tensor.name}` as a binary tensor")
            if size is None:
                sources.append(_Source(_array(tensor), 0, 0))
            else:
                if size > binary_bytes - at:
                    left = binary_bytes - at
                    raise BadRequest(f"input `{tensor.name}` claims {size} bytes of binary data; {left} are left")
                sources.append(_Source(-1, at, at + size))
                at += size
        if at != binary_bytes:
            raise BadRequest(f"{binary_bytes - at} bytes of binary data belong to no input")
        in_order, json_values = tuple([sources[place] for place in order]), 0
        for values, spec, (array, start, end) in zip(self._values, self._signature.inputs, in_order, strict=True):
            if array >= 0:
                json_values += rows * values.row_values
            elif not has_images:
                oip.require_bytes(spec.name, end - start, rows, spec)
        if json_values > oip.MAX_JSON_VALUES:
            raise BadRequest(
                f"JSON may have at most {oip.MAX_JSON_VALUES} values, not {json_values}: send binary tensors"
            )
        outputs = self._outputs(decoded)
        oip.require_encodable(self._signature, outputs, rows)
        has_id = decoded.id == ID_PLACEHOLDER
        query = Query(
            self.family,
            rows,
            outputs,
            request_options(decoded.parameters, self._version),
            None if has_id else decoded.id,
        )
        return _Layout(in_order, binary_bytes, query, has_id, has_images)

    def _outputs(self, request: InferRequest) -> tuple[tuple[int, Form], ...]:
        by_default = request.parameters is not None and bool(request.parameters.binary_data_output)
        if not request.outputs:
            return tuple((index, by_default) for index, _ in self._all_outputs)
        wanted = ((output.name, output.parameters or OutputParameters()) for output in request.outputs)
        forms = [(name, parameters.form(binary_by_default=by_default)) for name, parameters in wanted]
        return oip.outputs_by_name(self._signature, forms)

    def encode(self, query: Query, answer: Answered) -> EncodedAnswer:
        """The JSON of an answer, and the binary tensors that follow it."""
        return self._answers.encode(query, answer)


def _with_id(query: Query, identity: str) -> Query:
    return Query(query.family, query.rows, query.outputs, query.options, identity)


def _binary_size(tensor: RequestTensor) -> int | None:
    """The bytes of an input behind the JSON; None where its values are in the JSON. Raises `BadRequest`."""
    size = None if tensor.parameters is None else tensor.parameters.binary_data_size
    if size is not None and tensor.data is not None:
        raise BadRequest(f"input `{tensor.name}` has both `data` and `binary_data_size`; give one of them")
    return size


def _parsed(content: Buffer) -> InferRequest:
    try:
        return _decode_outline(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(problem(error)) from None


def _last(request: CutRequest, layout: _Layout) -> _Last | None:
    """What the next request may be like; None where it has more than one array, or none, or is long."""
    pieces, has_id = request.pieces, request.id_at >= 0
    if len(request.arrays) != 1 or len(layout.sources) != 1 or has_id != layout.has_id:
        return None
    return _Last(pieces[0], pieces[1] if has_id else b"", pieces[-1], request.id_at, layout.query)


def _array(tensor: RequestTensor) -> int:
    """Which of the arrays that were cut out has the values of an input. Raises `BadRequest`."""
    if not isinstance(tensor.data, list):
        raise BadRequest(f"input `{tensor.name}` needs `data`: a list of numbers")
    place = array_of(tensor.data)
    if place is None:
        raise BadRequest(f"input `{tensor.name}`: `data` must hold {tensor.datatype} values")
    return place
