"""Bodies in JSON of requests that are no inference."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from proteus_cli.errors import BadRequest, BodyTooLarge, ProteusError, RequestError, Unprocessable

Body = TypeVar("Body")


def decoded(
    body: bytes | bytearray, kind: type[Body], max_bytes: int | None = None, what: str = "what this endpoint takes"
) -> Body:
    """The value in a body, made of its defaults where the body is empty. Raises `BodyTooLarge` or `BadRequest`."""
    if max_bytes is not None and len(body) > max_bytes:
        raise BodyTooLarge(f"{what} has at most {max_bytes:,} bytes; got {len(body):,}")
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the body is not {what}: {error}") from None


@contextmanager
def refusing(problem: str = "") -> Iterator[None]:
    """Raise errors that are no `RequestError` as `Unprocessable`, with the ``problem`` before the message."""
    try:
        yield
    except RequestError:
        raise
    except ProteusError as error:
        raise Unprocessable(f"{problem}{error.message}", hint=error.hint) from error
