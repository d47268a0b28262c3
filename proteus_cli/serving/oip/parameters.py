"""The parameters of an inference request that both protocols read: deadline, priority, accuracy."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from proteus_cli.errors import BadRequest
from proteus_cli.serving.requests.query import DEFAULT_OPTIONS, RequestOptions

LOWEST_PRIORITY = 2**31 - 1
LONGEST_US = 2**63 - 1
_US_PER_S = 1e6


class RequestParameters(Struct, frozen=True, omit_defaults=True):
    """What a request may ask for besides its tensors. Other parameters are ignored."""

    # Whole numbers may be written as 1000.0 or 1e3.
    timeout: Annotated[
        Annotated[int, Meta(ge=0, le=LONGEST_US)] | Annotated[float, Meta(ge=0, le=1e18, multiple_of=1)] | None,
        Meta(description="Microseconds until the answer is of no use; 0 or null: the family's SLO."),
    ] = None
    priority: Annotated[
        Annotated[int, Meta(ge=0, le=LOWEST_PRIORITY)]
        | Annotated[float, Meta(ge=0, le=LOWEST_PRIORITY, multiple_of=1)],
        Meta(description="1 is the highest, larger is lower; 0 means 2."),
    ] = 0
    min_accuracy: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None, Meta(description="Only variants at least this accurate may answer.")
    ] = None

    def options(self) -> RequestOptions:
        """The same, as the data plane takes it. A timeout of 0 is Triton's way to say "none"."""
        timeout_s = self.timeout / _US_PER_S if self.timeout else None
        return RequestOptions(timeout_s, int(self.priority), self.min_accuracy or 0.0)


def request_options(parameters: Mapping[str, Any]) -> RequestOptions:
    """The options in parameters by name. Raises `BadRequest`."""
    if not parameters:
        return DEFAULT_OPTIONS
    try:
        return msgspec.convert(parameters, RequestParameters).options()
    except msgspec.ValidationError as error:
        raise BadRequest(f"parameters: {error}") from None
