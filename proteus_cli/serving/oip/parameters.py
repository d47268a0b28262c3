"""The parameters of inference requests, of their inputs and of their outputs, for REST and gRPC alike.

Parameters that have an effect in other servers alone, as `sequence_id` and `shared_memory_region`, are refused: the
answer would not be the one that the client expects. The three parameters that say where tensors
are in the body of an HTTP request or answer are taken over gRPC as well, where they change nothing. One that is null is
as one that is absent.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from proteus_cli.domain.base import Count, Fraction
from proteus_cli.domain.request import MAX_CONFIDENCE, AskedVersion, Bounds
from proteus_cli.errors import BadRequest
from proteus_cli.serving.requests.in_flight import AnsweredBatch
from proteus_cli.serving.requests.query import DEFAULT_OPTIONS, Classes, Form, RequestOptions

LOWEST_PRIORITY = 2**31 - 1
LONGEST_US = 2**63 - 1
MAX_CLASSES = 1000
MAX_ENERGY_J = 1e12
LONGEST_CLIENT_KEY = 128
_US_PER_S = 1e6
_UNKNOWN = re.compile(r"Object contains unknown field (`.*?`)(?: - at .*)?", re.DOTALL)


class RequestParameters(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The parameters of a request besides its tensors."""

    # Whole numbers may be written as 1000.0 or 1e3.
    timeout: Annotated[
        Annotated[int, Meta(ge=0, le=LONGEST_US)] | Annotated[float, Meta(ge=0, le=1e18, multiple_of=1)] | None,
        Meta(description="Microseconds until the answer is of no use; 0 or null: the family's SLO."),
    ] = None
    priority: Annotated[
        Annotated[int, Meta(ge=0, le=LOWEST_PRIORITY)]
        | Annotated[float, Meta(ge=0, le=LOWEST_PRIORITY, multiple_of=1)]
        | None,
        Meta(description="1 is the highest, larger is lower; 0 or null means 2."),
    ] = None
    min_accuracy: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None, Meta(description="Only variants at least this accurate may answer.")
    ] = None
    min_confidence: Annotated[
        Annotated[float, Meta(ge=-MAX_CONFIDENCE, le=MAX_CONFIDENCE)] | None,
        Meta(description="First stages of cascades are sure only of rows that are at least so confident."),
    ] = None
    min_expected_accuracy: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="At least so accurate an answer is to be expected; a cascade counts as both stages together."),
    ] = None
    max_energy_j: Annotated[
        Annotated[float, Meta(gt=0, le=MAX_ENERGY_J)] | None,
        Meta(description="Joules that the answer may take at most; only where profiles know the power."),
    ] = None
    client_key: Annotated[
        Annotated[str, Meta(max_length=LONGEST_CLIENT_KEY)] | None,
        Meta(description="Who asks: requests with one key have answers of one version while a new one is rolled out."),
    ] = None
    binary_data_output: Annotated[bool | None, Meta(description="All outputs as binary tensors.")] = None

    def options(self, version: AskedVersion | None = None) -> RequestOptions:
        """The same, as the data plane takes it, and the version. A timeout of 0 is Triton's way to say "none"."""
        timeout_s, bounds = self.timeout / _US_PER_S if self.timeout else None, self._bounds(version)
        return RequestOptions(timeout_s, int(self.priority or 0), self.min_accuracy or 0.0, bounds, self.client_key)

    def _bounds(self, version: AskedVersion | None) -> Bounds | None:
        confidence, expected, energy_j = self.min_confidence, self.min_expected_accuracy, self.max_energy_j
        if confidence is None and not expected and energy_j is None and version is None:
            return None
        return Bounds(
            -math.inf if confidence is None else confidence,
            expected or 0.0,
            math.inf if energy_j is None else energy_j,
            version=version,
        )


class InputParameters(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where the values of an input are."""

    binary_data_size: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Bytes behind the JSON, in place of `data`.")
    ] = None


class OutputParameters(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How an output is wanted."""

    binary_data: Annotated[
        bool | None, Meta(description="As a binary tensor; without it, as `binary_data_output` says.")
    ] = None
    classification: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_CLASSES)] | None,
        Meta(description="Only so many classes with the highest values, as BYTES `value:index:label`."),
    ] = None

    def form(self, *, binary_by_default: bool) -> Form:
        """The same, as the data plane takes it."""
        as_binary = binary_by_default if self.binary_data is None else self.binary_data
        return as_binary if self.classification is None else Classes(self.classification, as_binary)


class ResponseParameters(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The variant, device and batch that answered."""

    variant: Annotated[str, Meta(description="The variant of the family that answered.")]
    accuracy: Annotated[
        Fraction, Meta(description="Its accuracy; with `stages` or `exit`, what is to be expected of the answer.")
    ]
    device: Annotated[str, Meta(description="Where it ran.")]
    batch_size: Annotated[int, Meta(ge=1, description="Rows of the batch that the request was part of.")]
    compute_us: Annotated[Count, Meta(description="Microseconds that the batch took.")]
    emulated: Annotated[bool, Meta(description="The device is emulated: times and outputs are made up.")] = False
    stages: (
        Annotated[int, Meta(ge=1, description="The request went by a cascade; the answer took so many stages.")]
        | UnsetType
    ) = UNSET
    exit: (
        Annotated[int, Meta(ge=1, description="The exit of a multi-exit model that answered, the last of all rows.")]
        | UnsetType
    ) = UNSET
    cut: Annotated[
        bool, Meta(description="Rows stopped before their condition held: the next stage would have been too late.")
    ] = False
    confidence: (
        Annotated[
            float,
            Meta(description="Of the first stage; with `exit` or `min_confidence` of the answer. Lowest of all rows."),
        ]
        | UnsetType
    ) = UNSET
    fallback: Annotated[
        bool, Meta(description="The first stage was not sure, and the second could not answer in time.")
    ] = False
    energy_j: (
        Annotated[float, Meta(ge=0, description="With `max_energy_j`: the joules that the answer took, by its power.")]
        | UnsetType
    ) = UNSET
    queue_us: Annotated[Count, Meta(description="Microseconds from the request's admission until the batch ran.")]


def response_parameters(batch: AnsweredBatch) -> ResponseParameters:
    """The parameters of all answers of a batch; each answer adds its own time in the queue."""
    hosted, staged = batch.hosted, batch.staged
    return ResponseParameters(
        variant=hosted.variant,
        accuracy=batch.accuracy,
        device=hosted.device,
        batch_size=batch.rows,
        compute_us=round(batch.compute_s * _US_PER_S),
        emulated=batch.is_emulated,
        stages=UNSET if staged is None or staged.stages is None else staged.stages,
        exit=UNSET if staged is None or staged.exit is None else staged.exit,
        confidence=UNSET if staged is None or staged.confidence is None else staged.confidence,
        cut=staged is not None and staged.is_cut,
        fallback=staged is not None and staged.is_fallback,
        energy_j=UNSET if staged is None or staged.energy_j is None else staged.energy_j,
        queue_us=0,
    )


Parameters = TypeVar("Parameters", RequestParameters, InputParameters, OutputParameters)


def checked(parameters: Mapping[str, Any], kind: type[Parameters]) -> Parameters:
    """Parameters by name. Raises `BadRequest`."""
    try:
        return msgspec.convert(parameters, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(problem(error)) from None


def problem(error: Exception) -> str:
    """The problem of a request as its decoder says it; only parameters have no unknown fields."""
    unknown = _UNKNOWN.fullmatch(str(error))
    if unknown is not None:
        return f"the parameter {unknown[1]} is not supported"
    return f"not a valid inference request: {error}"


def request_options(parameters: RequestParameters | None, version: AskedVersion | None = None) -> RequestOptions:
    """The options of a request with these parameters (None: without any) and that version."""
    if parameters is None and version is None:
        return DEFAULT_OPTIONS
    return (parameters or RequestParameters()).options(version)
