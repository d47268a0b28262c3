"""Open Inference Protocol v2: the data types, the checks and the limits that REST and gRPC share.

In place of all values of an output, a client may want the classes with the highest ones, as texts
``value:index:label``. Source: the protocol's "HTTP/REST" and "gRPC" documents, and Triton's documents on its
extensions, among them "Classification Extension".
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.domain.request import ANY_VERSION
from proteus_cli.errors import BadRequest
from proteus_cli.serving.requests.query import Classes, Form, Query

DATATYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
DATATYPE_OF = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}
STRINGS = "BYTES"
VERSION = ANY_VERSION
"""That of a model as a whole. Which variant of the family answered is in the answer."""

VALUE_BYTES = 64  # of a number in JSON: at most 25 digits, and brackets and indentation
OTHER_BYTES = 64 * 1024  # of all else in a request

# These are decoded, encoded or unpacked in one go, for which all other requests wait: up to 0.1 s.
MAX_JSON_BYTES = 8 * 2**20  # of the JSON of a request
MAX_JSON_VALUES = 2**19  # of a request or an answer
MAX_TYPED_BYTES = 2 * 2**20  # of whole numbers and Booleans in typed contents of gRPC
MAX_UNPACKED_BYTES = 8 * 2**20  # of a compressed request
MAX_CLASSES = 2**16  # texts of an answer


def max_bytes(signature: Signature, rows: int) -> int:
    """The largest size of a request of so many rows: in JSON with generous spaces; in binary it is smaller."""
    row_values = sum(math.prod(size or 0 for size in spec.shape) for spec in signature.inputs)  # of fixed shapes
    return rows * row_values * VALUE_BYTES + OTHER_BYTES


def in_order(signature: Signature, names: Sequence[str]) -> tuple[int, ...]:
    """The index of each input of the signature in ``names``. Raises `BadRequest` where the names differ."""
    expected = [spec.name for spec in signature.inputs]
    if sorted(names) != sorted(expected):
        raise BadRequest(f"inputs must be {', '.join(expected)}; got {', '.join(names) or 'none'}")
    return tuple(names.index(name) for name in expected)


def rows_of(name: str, datatype: str, shape: Sequence[int], spec: TensorSpec) -> int:
    """The rows of an input whose type and shape fit the signature. Raises `BadRequest` for others."""
    expected = DATATYPE_OF[spec.dtype]
    if datatype == STRINGS:
        raise BadRequest(f"tensors of strings (BYTES) are not served; input `{name}` must have datatype {expected}")
    if datatype != expected:
        raise BadRequest(f"input `{name}` must have datatype {expected}; got {datatype}")
    if tuple(shape[1:]) != spec.shape or len(shape) != len(spec.shape) + 1 or shape[0] < 1:
        sizes = ", ".join(["rows", *(str(size) for size in spec.shape)])
        raise BadRequest(f"input `{name}` must have shape [{sizes}] with rows ≥ 1; got {list(shape)}")
    return shape[0]


def require_bytes(name: str, size: int, rows: int, spec: TensorSpec) -> None:
    """Raise `BadRequest` where a binary tensor has not as many bytes as its shape needs."""
    needed = rows * math.prod(size or 0 for size in spec.shape) * spec.dtype.itemsize  # inputs have fixed shapes
    if size != needed:
        raise BadRequest(f"input `{name}` has {size} bytes of data; its type and shape need {needed}")


def require_same(rows: Sequence[int]) -> int:
    """The number of rows, which all inputs share. Raises `BadRequest` where it differs."""
    if len(set(rows)) != 1:
        raise BadRequest(f"all inputs must have as many rows; got {sorted(set(rows))}")
    return rows[0]


def outputs_by_name(signature: Signature, wanted: Sequence[tuple[str, Form]]) -> tuple[tuple[int, Form], ...]:
    """The wanted outputs by index in the signature.

    Raises `BadRequest` for an unknown or repeated name, and where an output has not as many classes as are wanted.
    """
    names = [spec.name for spec in signature.outputs]
    for name, form in wanted:
        if name not in names:
            raise BadRequest(f"no output `{name}`; there are: {', '.join(names)}")
        if isinstance(form, Classes):
            _require_classes(signature.outputs[names.index(name)], form.count)
    if len({name for name, _ in wanted}) != len(wanted):
        raise BadRequest("an output may be asked for once")
    return tuple((names.index(name), form) for name, form in wanted)


def _require_classes(spec: TensorSpec, count: int) -> None:
    if spec.dtype.kind == "b" or None in spec.shape:
        why = "are true or false" if spec.dtype.kind == "b" else "vary in number"
        raise BadRequest(f"the values of output `{spec.name}` {why}, so they are no classes")
    if count > math.prod(spec.sizes):
        raise BadRequest(f"output `{spec.name}` has {math.prod(spec.sizes)} classes; got `classification` {count}")


def require_encodable(signature: Signature, outputs: Sequence[tuple[int, Form]], rows: int) -> None:
    """Raise `BadRequest` where an answer of so many rows takes too long to encode. Sizes that vary count as one."""
    values = texts = 0
    for index, form in outputs:
        if form is not True:
            values += rows * math.prod(size or 1 for size in signature.outputs[index].shape)
        if isinstance(form, Classes):
            texts += rows * form.count
    if values > MAX_JSON_VALUES:
        raise BadRequest(
            f"the answer takes {values:,} values as JSON or to find classes; at most {MAX_JSON_VALUES:,} are:"
            " ask for binary outputs, or send fewer rows"
        )
    if texts > MAX_CLASSES:
        raise BadRequest(
            f"the answer has {texts:,} classes; at most {MAX_CLASSES:,} are taken: ask for fewer of each row"
        )


Values = npt.NDArray[Any]


def wants_classes(query: Query) -> bool:
    """Whether the classes of any output are wanted, and not its values."""
    for _, form in query.outputs:  # noqa: SIM110 - asked for each batch, and `any` takes several calls
        if isinstance(form, Classes):
            return True
    return False


def highest_classes(values: Values, count: int, labels: Sequence[str]) -> list[str]:
    """The ``count`` highest values of each row, one row behind another.

    The highest come first; of equal ones, those with the lower index. NaN counts as -inf. A class beyond the
    ``labels`` has none. Axis 0 of ``values`` has the rows; all else of a row are its classes, ``count`` or more.
    """
    rows = values.reshape(len(values), -1)
    highest = _descending(rows)[:, :count]
    found = np.take_along_axis(rows, highest, 1).reshape(-1)
    return [_text(value, index, labels) for value, index in zip(found, highest.reshape(-1).tolist(), strict=True)]


def packed(texts: Sequence[str]) -> bytes:
    """Texts as a binary tensor of BYTES, each behind its length in four bytes."""
    encoded = [text.encode() for text in texts]
    return b"".join([struct.pack("<I", len(each)) + each for each in encoded])


def _descending(rows: Values) -> npt.NDArray[np.intp]:
    """The order of each row from its highest value on; equal ones stay in their order."""
    if rows.dtype.kind == "f":
        rows = np.where(np.isnan(rows), -math.inf, rows)
    backwards: npt.NDArray[np.intp] = np.argsort(rows[:, ::-1], axis=1, kind="stable")[:, ::-1]
    order: npt.NDArray[np.intp] = rows.shape[1] - 1 - backwards
    return order


def _text(value: object, index: int, labels: Sequence[str]) -> str:
    """``value`` has as few digits as tell it from others of its datatype."""
    return f"{value!s}:{index}:{labels[index]}" if index < len(labels) else f"{value!s}:{index}"
