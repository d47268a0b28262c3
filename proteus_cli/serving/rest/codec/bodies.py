"""The JSON of inference requests and answers, and of errors, as Structs.

The codec decodes requests into them; the OpenAPI schemas are made from them. Rules that only `extra_json_schema` has
are checked by the codec, whose messages name the model's inputs.
"""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from proteus_cli.domain.base import Count
from proteus_cli.serving.oip.documents import SentDatatype
from proteus_cli.serving.oip.parameters import InputParameters, OutputParameters, RequestParameters, ResponseParameters

LARGEST_INT64 = 2**63 - 1
VALUES_SCHEMA = {
    "type": "array",
    "items": {"anyOf": [{"type": "number"}, {"type": "boolean"}, {"$ref": "#/components/schemas/Values"}]},
    "description": "Row-major, flat or nested as the shape is. JSON has neither NaN nor infinity.",
}
"""The one schema that is written by hand: it refers to itself."""
_VALUES_OR_NULL = {"anyOf": [{"$ref": "#/components/schemas/Values"}, {"type": "null"}]}
_RowSize = Annotated[int, Meta(le=LARGEST_INT64, extra_json_schema={"minimum": 1})]


class RequestTensor(Struct, frozen=True, omit_defaults=True):
    """An input, as the model's metadata says; or BYTES, with an image file for each row. The first size is the rows."""

    name: str
    shape: Annotated[tuple[_RowSize, ...], Meta(extra_json_schema={"minItems": 1})]
    datatype: SentDatatype
    parameters: InputParameters | None = None
    data: Annotated[Raw, Meta(extra_json_schema=_VALUES_OR_NULL)] = field(default_factory=Raw)


class RequestedOutput(Struct, frozen=True, omit_defaults=True):
    """An output that is wanted."""

    name: str
    parameters: OutputParameters | None = None


class InferRequest(Struct, frozen=True, omit_defaults=True):
    """An inference request, or the JSON part of it."""

    inputs: Annotated[tuple[RequestTensor, ...], Meta(extra_json_schema={"minItems": 1})]
    id: Annotated[str | None, Meta(description="Comes back with the answer.")] = None
    parameters: RequestParameters | None = None
    outputs: Annotated[
        tuple[RequestedOutput, ...] | None, Meta(description="The outputs that are wanted; none: all.")
    ] = None


class ResponseTensorParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The values are binary: this many bytes behind the JSON."""

    binary_data_size: Count


class ResponseTensor(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An output."""

    name: str
    datatype: SentDatatype
    shape: list[Count]
    parameters: ResponseTensorParameters | UnsetType = UNSET
    data: Annotated[
        list[float | bool | str | None] | UnsetType,
        Meta(description="Row-major and flat; null stands for NaN and the infinities. Classes are text."),
    ] = UNSET


class InferResponse(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The answer, or the JSON part of it."""

    model_name: str
    model_version: str
    parameters: ResponseParameters
    outputs: list[ResponseTensor]
    id: str | UnsetType = UNSET


class Error(Struct, frozen=True, forbid_unknown_fields=True):
    """The fault, for people."""

    error: str


class IndexRequest(Struct):
    """Which models to list."""

    ready: Annotated[bool, Meta(description="Only models that take requests.")] = False


class RepositoryRequest(Struct):
    """What `load` and `unload` take."""

    parameters: Annotated[dict[str, Any] | None, Meta(description="No `config`, and no files.")] = None
