"""gRPC status codes of our errors, and the header blocks that carry them."""

from enum import IntEnum
from urllib.parse import quote_from_bytes

from proteus_cli.errors import (
    BadRequest,
    BodyTooLarge,
    Conflict,
    DeadlineExceeded,
    EngineFailed,
    Forbidden,
    InternalError,
    NotAccurateEnough,
    NotFound,
    NotReady,
    Overloaded,
    RequestError,
    Unfitting,
    UnknownModel,
)
from proteus_cli.serving.http2.frames import literal_field

_LONGEST_MESSAGE = 1024
_AS_IT_IS = bytes(range(0x20, 0x7F)).replace(b"%", b"")
_MS_PER_S = 1e3


class Status(IntEnum):
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


STATUS = {
    BadRequest: Status.INVALID_ARGUMENT,
    NotAccurateEnough: Status.INVALID_ARGUMENT,
    UnknownModel: Status.NOT_FOUND,
    NotFound: Status.NOT_FOUND,
    Forbidden: Status.PERMISSION_DENIED,
    Conflict: Status.FAILED_PRECONDITION,
    Unfitting: Status.INVALID_ARGUMENT,
    BodyTooLarge: Status.RESOURCE_EXHAUSTED,
    Overloaded: Status.RESOURCE_EXHAUSTED,
    EngineFailed: Status.INTERNAL,
    InternalError: Status.INTERNAL,
    NotReady: Status.UNAVAILABLE,
    DeadlineExceeded: Status.DEADLINE_EXCEEDED,
}

_STATUS_200 = b"\x88"  # indexed in HPACK's static table
HEAD = (
    _STATUS_200
    + literal_field(b"content-type", b"application/grpc+proto")
    + literal_field(b"grpc-accept-encoding", b"identity,gzip")
)
"""The header block of every answer."""
TRAILERS_OK = literal_field(b"grpc-status", b"0")


class CallError(Exception):
    """An error that ends a call with this status."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def trailers_of(error: RequestError | CallError) -> bytes:
    """The trailers of a failed call; where they apply, when to try again, or which outcome the request had."""
    trailers = literal_field(b"grpc-status", b"%d" % status_of(error)) + literal_field(
        b"grpc-message", _encoded(error.message)
    )
    if isinstance(error, Overloaded | NotReady):
        trailers += literal_field(b"grpc-retry-pushback-ms", b"%d" % max(error.retry_after_s * _MS_PER_S, 1))
    if isinstance(error, DeadlineExceeded):
        trailers += literal_field(b"proteus-outcome", b"late" if error.is_late else b"dropped")
    return trailers


def status_of(error: RequestError | CallError) -> Status:
    if isinstance(error, CallError):
        return error.status
    return STATUS[type(error)]


def plain_http(status: int) -> bytes:
    """The header block of a response to a request that is no gRPC call."""
    return literal_field(b":status", b"%d" % status)


def _encoded(message: str) -> bytes:
    """A message as gRPC wants it, percent-encoded, and cut to a length that headers may have."""
    return quote_from_bytes(message[:_LONGEST_MESSAGE].encode(errors="replace"), safe=_AS_IT_IS).encode()
