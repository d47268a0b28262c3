"""The codes of both protocols for each error of a request, side by side."""

from collections.abc import Mapping
from enum import IntEnum

from proteus_cli import errors
from proteus_cli.errors import RequestError


class GrpcStatus(IntEnum):
    """The status codes of gRPC that calls end with."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


_CODES: Mapping[type[RequestError], tuple[int, GrpcStatus]] = {
    errors.BadRequest: (400, GrpcStatus.INVALID_ARGUMENT),
    errors.NotAccurateEnough: (400, GrpcStatus.INVALID_ARGUMENT),
    errors.BoundsUnmet: (400, GrpcStatus.INVALID_ARGUMENT),
    errors.Forbidden: (403, GrpcStatus.PERMISSION_DENIED),
    errors.UnknownModel: (404, GrpcStatus.NOT_FOUND),
    errors.NotFound: (404, GrpcStatus.NOT_FOUND),
    errors.MethodNotAllowed: (405, GrpcStatus.UNIMPLEMENTED),
    errors.Conflict: (409, GrpcStatus.FAILED_PRECONDITION),
    errors.BodyTooLarge: (413, GrpcStatus.RESOURCE_EXHAUSTED),
    errors.CorruptBody: (400, GrpcStatus.INTERNAL),
    errors.UnsupportedMediaType: (415, GrpcStatus.INVALID_ARGUMENT),
    errors.Unprocessable: (422, GrpcStatus.INVALID_ARGUMENT),
    errors.Overloaded: (429, GrpcStatus.RESOURCE_EXHAUSTED),
    errors.EngineFailed: (500, GrpcStatus.INTERNAL),
    errors.InternalError: (500, GrpcStatus.INTERNAL),
    errors.NotReady: (503, GrpcStatus.UNAVAILABLE),
    errors.DeadlineExceeded: (504, GrpcStatus.DEADLINE_EXCEEDED),
}
HTTP_STATUS = {error: http for error, (http, _) in _CODES.items()}
GRPC_STATUS = {error: grpc for error, (_, grpc) in _CODES.items()}


def request_error(error: Exception) -> RequestError:
    """The error that a client is told: `InternalError` for all that is no error of a request."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, MemoryError):  # whose request is freed with it
        return errors.NotReady("there is too little memory for this request")
    return errors.InternalError()
