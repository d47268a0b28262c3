"""Inference requests over REST: JSON, and the binary tensor extension.

A request is decoded but for the values of its tensors, which stay JSON until the request is admitted. The checks of all
else are remembered, as the requests of a client differ in little but their values. Source: the protocol's "HTTP/REST"
document, and Triton's "Binary Tensor Data Extension".
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
from proteus_cli.serving.memory import remember
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.oip.images import max_bytes, may_be_encoded, places_and_rows, read_image, read_images
from proteus_cli.serving.oip.parameters import OutputParameters, problem, request_options
from proteus_cli.serving.requests.query import Decoded, Form, Inputs, InThreads, Query
from proteus_cli.serving.rest.codec.answers import AnswerEncoder
from proteus_cli.serving.rest.codec.bodies import InferRequest, RequestTensor
from proteus_cli.serving.rest.codec.json_values import JsonValues

_MAX_KNOWN = 256  # layouts, by family
_LONGEST_KNOWN = 2048
_SMALL_BYTES = 16 * 1024  # are copied, which costs less than a view
_MAX_OBJECTS = 1024  # of a request
_NO_DATA = (b"", b"null")
_ARRAY = ord("[")


class _Source(NamedTuple):
    """The place of an input in the request, and its bytes behind the JSON; no end: it is in `data`."""

    place: int
    start: int
    end: int | None


class _Layout(msgspec.Struct, frozen=True):
    """Where the inputs of a request are, in the order of the signature, and what it asks.

    ``binary_bytes`` follow the JSON. ``has_images``: the one input is of images.
    """

    sources: tuple[_Source, ...]
    binary_bytes: int
    query: Query
    has_images: bool

    def slices(self, body: bytes | bytearray, json_length: int) -> Inputs:
        """The inputs of a request that has all of them behind its JSON."""
        content: Buffer = memoryview(body) if self.binary_bytes > _SMALL_BYTES else body
        inputs = []
        for _, start, end in self.sources:
            assert end is not None  # noqa: S101 - all are behind the JSON
            inputs.append(content[json_length + start : json_length + end])
        return tuple(inputs)


class _Last(NamedTuple):
    """The last request without an id and with one array of values: what was before and behind that."""

    head: bytes
    tail: bytes
    query: Query


_decode = msgspec.json.Decoder(InferRequest).decode


class RestCodec(AnswerEncoder):
    """Decodes the requests of one ``family``, of ``max_rows`` rows at most, and encodes their answers.

    ``max_bytes`` is the most that these rows need, ``max_json_bytes`` the most of it that may be JSON. A larger body
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
        super().__init__(family, signature, labels)
        self._image, self._version = image, version
        self.max_bytes = max_bytes(signature, max_rows, image)
        self.max_json_bytes = min(oip.max_bytes(signature, max_rows), oip.MAX_JSON_BYTES)
        self._layouts: dict[object, _Layout] = {}
        self._binary: dict[int, tuple[bytes, _Layout]] = {}  # the JSON before binary tensors, by the size of all
        self._values = tuple(JsonValues(spec) for spec in signature.inputs)
        self._last: _Last | None = None

    def decode(self, body: bytes | bytearray, json_length: int | None) -> Decoded:
        """Decode and check a request but its tensors.

        ``json_length`` is the value of `Inference-Header-Content-Length`: binary tensors follow the JSON of that
        length. Raises `BadRequest`, `BodyTooLarge`.
        """
        size = len(body)
        if size > self.max_bytes:
            raise self._too_large("bytes", self.max_bytes, size)
        if json_length is None:
            return self._like_last(body) or self._decoded(body, size, 0)
        if not 0 <= json_length <= size:
            raise BadRequest(f"Inference-Header-Content-Length is {json_length}, but the body has {size} bytes")
        known = self._binary.get(size)
        if known is not None and len(known[0]) == json_length and body.startswith(known[0]):
            return known[1].query, partial(known[1].slices, body, json_length)
        return self._decoded(body, json_length, size - json_length)

    def decode_image(self, body: bytes | bytearray) -> Decoded:
        """A request for one row whose body is a JPEG or PNG file. Raises `BadRequest`, and `BodyTooLarge`."""
        if self._image is None or not may_be_encoded(self._image):
            raise BadRequest(f"`{self.family}` takes no images: send its tensors as JSON or binary")
        if len(body) > self.max_bytes:
            raise self._too_large("bytes", self.max_bytes, len(body))
        query = Query(self.family, 1, self._all_outputs(as_binary=False), request_options(None, self._version), None)
        return query, InThreads(read_image(body, self._image), self.row_bytes)

    def _too_large(self, what: str, most: int, size: int) -> BodyTooLarge:
        return BodyTooLarge(
            f"a request for `{self.family}` may have at most {most} {what}; got {size}"
            " (send binary tensors, which are smaller than JSON: see Inference-Header-Content-Length)"
        )

    def _like_last(self, body: bytes | bytearray) -> Decoded | None:
        """A request that differs from the last one in its values alone, which are not gone through to find it out."""
        last = self._last
        if last is None or not (body.startswith(last.head) and body.endswith(last.tail)):
            return None
        start, end = len(last.head), len(body) - len(last.tail)
        # Names are quoted, so what begins as an array here, and has no quotes, is one array or malformed.
        if body[start : start + 1] != b"[" or body.find(b'"', start, end) >= 0:
            return None
        return last.query, partial(self._read_text, memoryview(body)[start:end], last.query.rows)

    def _decoded(self, body: bytes | bytearray, json_bytes: int, binary_bytes: int) -> Decoded:
        if json_bytes > self.max_json_bytes:
            raise self._too_large("bytes of JSON", self.max_json_bytes, json_bytes)
        if json_bytes > oip.OTHER_BYTES and body.count(b"{", 0, json_bytes) > _MAX_OBJECTS:
            raise BadRequest(f"a request has at most {_MAX_OBJECTS} objects")
        request = _parsed(memoryview(body)[:json_bytes] if binary_bytes else body)
        tensors = request.inputs
        if json_bytes > oip.OTHER_BYTES and json_bytes - sum(_size(each.data) for each in tensors) > oip.OTHER_BYTES:
            raise BadRequest(f"a request takes at most {oip.OTHER_BYTES} bytes besides the values of its tensors")
        key = (
            binary_bytes, request.parameters, request.outputs,
            *[(each.name, each.shape, each.datatype, each.parameters) for each in tensors],
        )  # fmt: skip
        layout = self._layouts.get(key)
        if layout is None:
            layout = self._layout(request, binary_bytes)
            if json_bytes <= _LONGEST_KNOWN:
                remember(self._layouts, key, layout, _MAX_KNOWN)
        query = layout.query
        if request.id is not None:
            query = Query(query.family, query.rows, query.outputs, query.options, request.id)
        if len(tensors) == 1 and not binary_bytes:
            text = _array(tensors[0])
            self._last = None if request.id is not None else _around(body, bytes(text), query)
            return query, partial(self._read_text, text, query.rows)
        if layout.has_images:
            return query, self._images(layout, body, json_bytes)
        if request.id is None and json_bytes <= _LONGEST_KNOWN and _are_behind(tensors):
            remember(self._binary, len(body), (bytes(memoryview(body)[:json_bytes]), layout), _MAX_KNOWN)
        return query, partial(self._read, layout, tensors, body, json_bytes)

    def _images(self, layout: _Layout, body: bytes | bytearray, json_length: int) -> InThreads[Inputs]:
        """How to read the one input of a request that has images."""
        assert self._image is not None  # noqa: S101 - only a family with one has such a layout
        (images,), rows = layout.slices(body, json_length), layout.query.rows
        return InThreads(read_images(images, rows, self._image), rows * self.row_bytes)

    def _read_text(self, text: memoryview, rows: int) -> Inputs:
        return (self._values[0].read(text, rows),)

    def _read(
        self, layout: _Layout, tensors: Sequence[RequestTensor], body: bytes | bytearray, json_length: int
    ) -> Inputs:
        inputs: list[Buffer] = []
        for values, (place, start, end) in zip(self._values, layout.sources, strict=True):
            tensor = tensors[place]
            if end is None:
                inputs.append(values.read(_array(tensor), layout.query.rows))
            elif _has_data(tensor):
                raise BadRequest(f"input `{tensor.name}` has both `data` and `binary_data_size`; give one of them")
            else:
                inputs.append(memoryview(body)[json_length + start : json_length + end])
        return tuple(inputs)

    def _layout(self, request: InferRequest, binary_bytes: int) -> _Layout:
        """Check all of a request but its values. Raises `BadRequest`."""
        tensors = request.inputs
        order, rows, has_images = places_and_rows(self._signature, self._image, tensors)
        sources: list[_Source] = []
        at = 0
        for place, tensor in enumerate(tensors):
            size = None if tensor.parameters is None else tensor.parameters.binary_data_size
            if size is None and has_images:
                raise BadRequest(f"images are not taken in JSON: send input `{tensor.name}` as a binary tensor")
            if size is not None and size > binary_bytes - at:
                left = binary_bytes - at
                raise BadRequest(f"input `{tensor.name}` claims {size} bytes of binary data; {left} are left")
            sources.append(_Source(place, at, None if size is None else at + size))
            at += size or 0
        if at != binary_bytes:
            raise BadRequest(f"{binary_bytes - at} bytes of binary data belong to no input")
        in_order, json_values = tuple([sources[place] for place in order]), 0
        for values, spec, (_, start, end) in zip(self._values, self._signature.inputs, in_order, strict=True):
            if end is None:
                json_values += rows * values.row_values
            elif not has_images:
                oip.require_bytes(spec.name, end - start, rows, spec)
        if json_values > oip.MAX_JSON_VALUES:
            raise BadRequest(
                f"JSON may have at most {oip.MAX_JSON_VALUES} values, not {json_values}: send binary tensors"
            )
        outputs = self._outputs(request)
        oip.require_encodable(self._signature, outputs, rows)
        query = Query(self.family, rows, outputs, request_options(request.parameters, self._version))
        return _Layout(in_order, binary_bytes, query, has_images)

    def _outputs(self, request: InferRequest) -> tuple[tuple[int, Form], ...]:
        as_binary = request.parameters is not None and bool(request.parameters.binary_data_output)
        if not request.outputs:
            return self._all_outputs(as_binary=as_binary)
        wanted = ((output.name, output.parameters or OutputParameters()) for output in request.outputs)
        forms = [(name, parameters.form(binary_by_default=as_binary)) for name, parameters in wanted]
        return oip.outputs_by_name(self._signature, forms)

    def _all_outputs(self, *, as_binary: bool) -> tuple[tuple[int, Form], ...]:
        return tuple((index, as_binary) for index in range(len(self._signature.outputs)))


def _parsed(content: Buffer) -> InferRequest:
    try:
        return _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(problem(error)) from None


def _around(body: bytes | bytearray, values: bytes, query: Query) -> _Last | None:
    """The text around the values of a request, if it is short; None where the values stand elsewhere, too."""
    start, end = body.find(values), body.rfind(values) + len(values)
    if end - start != len(values) or len(body) - len(values) > _LONGEST_KNOWN:
        return None
    return _Last(bytes(body[:start]), bytes(body[end:]), query)


def _size(data: msgspec.Raw) -> int:
    return memoryview(data).nbytes


def _has_data(tensor: RequestTensor) -> bool:
    """`data` that is null is as if it was absent."""
    return memoryview(tensor.data) not in _NO_DATA


def _are_behind(tensors: Sequence[RequestTensor]) -> bool:
    """Whether the values of all tensors follow the JSON."""
    return all(each.parameters is not None and not _has_data(each) for each in tensors)


def _array(tensor: RequestTensor) -> memoryview:
    """The JSON of the values of an input. Raises `BadRequest`."""
    text = memoryview(tensor.data)
    if not text or text[0] != _ARRAY:
        raise BadRequest(f"input `{tensor.name}` needs `data`: a list of numbers")
    return text
