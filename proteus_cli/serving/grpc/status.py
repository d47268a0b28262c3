"""The header blocks of gRPC responses, and of the errors that end calls."""

from functools import lru_cache
from urllib.parse import quote_from_bytes

from proteus_cli.errors import DeadlineExceeded, NotReady, Overloaded, RequestError
from proteus_cli.serving.http2.frames import literal_field
from proteus_cli.serving.oip.codes import GRPC_STATUS, GrpcStatus

_LONGEST_MESSAGE = 1024
_AS_IT_IS = bytes(range(0x20, 0x7F)).replace(b"%", b"")
_MS_PER_S = 1e3
_REFUSALS = 256  # families, and times after which to try again


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

    def __init__(self, status: GrpcStatus, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def trailers_of(error: RequestError | CallError) -> bytes:
    """The trailers of a failed call; where they apply, when to try again, or which outcome the request had."""
    if isinstance(error, Overloaded):
        return _too_many(error.message, error.retry_after_s)
    trailers = _plain(status_of(error), error.message)
    if isinstance(error, NotReady):
        trailers += _pushback(error.retry_after_s)
    if isinstance(error, DeadlineExceeded):
        trailers += literal_field(b"proteus-outcome", b"late" if error.is_late else b"dropped")
    return trailers


@lru_cache(_REFUSALS)
def _too_many(message: str, retry_after_s: float) -> bytes:
    """The trailers of a refusal. Under overload most answers are refusals, and these are all alike."""
    return _plain(GRPC_STATUS[Overloaded], message) + _pushback(retry_after_s)


def _plain(status: GrpcStatus, message: str) -> bytes:
    return literal_field(b"grpc-status", b"%d" % status) + literal_field(b"grpc-message", _encoded(message))


def _pushback(retry_after_s: float) -> bytes:
    return literal_field(b"grpc-retry-pushback-ms", b"%d" % max(retry_after_s * _MS_PER_S, 1))


def status_of(error: RequestError | CallError) -> GrpcStatus:
    """The gRPC status of an error."""
    if isinstance(error, CallError):
        return error.status
    return GRPC_STATUS[type(error)]


def plain_http(status: int) -> bytes:
    """The header block of a response to a request that is no gRPC call."""
    return literal_field(b":status", b"%d" % status)


def _encoded(message: str) -> bytes:
    """A message as gRPC wants it, percent-encoded, and cut to a length that headers may have."""
    return quote_from_bytes(message[:_LONGEST_MESSAGE].encode(errors="replace"), safe=_AS_IT_IS).encode()
