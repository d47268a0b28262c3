"""Errors as HTTP responses."""

import math

import msgspec

from proteus_cli.errors import (
    BoundsUnmet,
    DeadlineExceeded,
    MethodNotAllowed,
    NotAccurateEnough,
    NotReady,
    Overloaded,
    RequestError,
)
from proteus_cli.serving.http1.exchange import JSON, Exchange
from proteus_cli.serving.oip.codes import HTTP_STATUS
from proteus_cli.serving.rest.codec.bodies import Error

OUTCOME = b"proteus-outcome"


def refuse(exchange: Exchange, error: RequestError, headers: bytes = b"") -> None:
    """Answer with an error; ``headers`` are lines for its answer."""
    if isinstance(error, Overloaded | NotReady):
        headers += b"retry-after: %d\r\n" % math.ceil(error.retry_after_s)
    elif isinstance(error, MethodNotAllowed):
        headers += b"allow: %b\r\n" % error.allowed.encode()
    elif isinstance(error, BoundsUnmet | NotAccurateEnough):
        headers += b"%b: rejected\r\n" % OUTCOME  # unlike other bad requests, it counts as an outcome
    elif isinstance(error, DeadlineExceeded):
        headers += b"%b: %b\r\n" % (OUTCOME, b"late" if error.is_late else b"dropped")
    exchange.respond(HTTP_STATUS[type(error)], JSON, msgspec.json.encode(Error(error.message)), headers=headers)
