"""Answers over REST: JSON, and binary tensors behind it.

The common part of all answers of a batch is encoded once.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import msgspec

from proteus_cli.backends.base import Signature
from proteus_cli.buffers import Buffer
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.oip.parameters import response_parameters
from proteus_cli.serving.oip.tensors import highest_classes, packed, wants_classes
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch
from proteus_cli.serving.requests.query import Classes, Query
from proteus_cli.serving.rest.codec.bodies import (
    InferResponse,
    ResponseTensor,
    ResponseTensorParameters,
)

_MAX_LISTED_VALUES = 32 * 1024  # of an output of a whole batch, which become lists of Python's
_US_PER_S = 1e6

Texts = list[str] | bytes
"""The texts of all classes of an output; packed, where they are wanted as a binary tensor."""

EncodedAnswer = tuple[bytes, list[Buffer]]
"""The JSON of an answer, and the binary tensors behind it."""


class _SharedAnswer(NamedTuple):
    """The common part of answers of one batch with as many rows: all but the time in the queue, the id, and the rows.

    The JSON is ``before``, the time in the queue, ``after``; then for each of ``lists`` the values of this answer,
    and what follows them. ``binary`` has the bytes of all rows of an output, and how many a row has.
    """

    before: bytes
    after: bytes
    lists: list[tuple[Any, bytes]]
    binary: list[tuple[Buffer, int]]


_encode = msgspec.json.Encoder().encode
_OUTPUTS = b'},"outputs":['  # behind the time in the queue
_NO_QUEUE_US = b"0" + _OUTPUTS + b"]}"  # ends an answer without outputs


class AnswerEncoder:
    """Encodes the answers to requests of one ``family``. The classes of the first output have ``labels``."""

    def __init__(self, family: str, signature: Signature, labels: Sequence[str]) -> None:
        self.family, self._signature, self._labels = family, signature, labels
        self.row_bytes = sum(spec.row_bytes for spec in signature.inputs)
        """The bytes of all inputs of a row."""

    def encode(self, query: Query, answer: Answered) -> EncodedAnswer:
        """The JSON of an answer, and the binary tensors that follow it."""
        memo, rows = answer.batch.memo, answer.rows
        try:
            shared = memo[query.outputs, rows]
        except KeyError:
            if wants_classes(query):
                shared, answer = self._with_classes(query, answer)
            else:
                shared = memo[query.outputs, rows] = self._shared(query, answer)
        before, after, lists, binary = shared
        first = answer.first
        json = b"".join((before, _encode(int(answer.queue_s * _US_PER_S)), after))
        for values, end in lists:
            if isinstance(values, list):
                json += _encode(values[first] if rows == 1 else list(chain(*values[first : first + rows]))) + end
            else:
                json += _encode(values[first : first + rows].reshape(-1).tolist()) + end
        if query.id is not None:
            json = b'%b,"id":%b}' % (json[:-1], _encode(query.id))
        tensors = []
        for values, size in binary:  # not a comprehension: in Python 3.11 each is a call
            tensors.append(values[first * size : (first + rows) * size])
        return json, tensors

    def _with_classes(self, query: Query, answer: Answered) -> tuple[_SharedAnswer, Answered]:
        """An answer that has the classes of some outputs, as a batch of its own."""
        batch, classes = answer.batch, dict[int, Texts]()
        own = batch.of_one(answer.outputs, staged=batch.staged, version=batch.version)
        for index, form in query.outputs:
            if isinstance(form, Classes):
                labels = self._labels if index == 0 else ()
                texts = highest_classes(own.outputs[index], form.count, labels)
                classes[index] = packed(texts) if form.as_binary else texts
        alone = Answered(own, 0, answer.rows, answer.queue_s)
        return self._shared(query, alone, classes), alone

    def _shared(self, query: Query, answer: Answered, classes: Mapping[int, Texts] = {}) -> _SharedAnswer:
        """``classes``: the texts of an output's classes, by its index, where these are wanted in its place."""
        batch, parameters = answer.batch, response_parameters(answer.batch)
        before = _encode(InferResponse(self.family, batch.version, parameters, [])).removesuffix(_NO_QUEUE_US)
        lists, binary, texts = list[Any](), list[tuple[Buffer, int]](), [_OUTPUTS]
        for place, (index, form) in enumerate(query.outputs):
            values, spec, of_classes = batch.outputs[index], self._signature.outputs[index], classes.get(index)
            if place:
                texts[-1] += b","
            if isinstance(form, Classes):
                tensor = ResponseTensor(spec.name, oip.STRINGS, [answer.rows, form.count])
            else:
                tensor = ResponseTensor(spec.name, oip.DATATYPE_OF[values.dtype], [answer.rows, *values.shape[1:]])
            if form is True:
                content, row_bytes = batch.content(index)
                binary.append((content, row_bytes))
                texts[-1] += _in_binary(tensor, row_bytes * answer.rows)
            elif isinstance(of_classes, bytes):
                binary.append((of_classes, len(of_classes)))  # of all rows: the answer has no others
                texts[-1] += _in_binary(tensor, len(of_classes))
            else:
                lists.append(_rows(batch, index) if of_classes is None else [of_classes])
                texts[-1] += _encode(tensor)[:-1] + b',"data":'
                texts.append(b"}")
        texts[-1] += b"]}"
        return _SharedAnswer(before, texts[0], list(zip(lists, texts[1:], strict=True)), binary)


def _in_binary(tensor: ResponseTensor, size: int) -> bytes:
    """The JSON of an output with ``size`` bytes behind the JSON."""
    return _encode(msgspec.structs.replace(tensor, parameters=ResponseTensorParameters(size)))


def _rows(batch: AnsweredBatch, index: int) -> Any:
    """The rows of an output, each as a flat list, made once for a batch; unchanged for a large batch."""
    key, values = ("rows", index), batch.outputs[index]
    if values.size > _MAX_LISTED_VALUES:
        return values
    if key not in batch.memo:
        batch.memo[key] = values.reshape(len(values), -1).tolist()
    return batch.memo[key]
