"""Running servers that commands send requests to, with the token of the environment."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from proteus_cli.errors import ServerError, UsageError
from proteus_cli.settings import environment

if TYPE_CHECKING:
    import ssl
    from contextlib import AbstractAsyncContextManager

    import msgspec

    from proteus_cli.replay.target import HttpTarget

REPLY_WITHIN_S = 60.0
_NOT_THERE = "is it running? `--url` names another server"
_OK, _BAD_REQUESTS = 200, {400, 422}
_HINTS = {
    401: "set PROTEUS_TOKEN to a token that the server takes",
    409: "`proteus rollout status` lists the roll-outs and their steps",
}
"""By status code of the answer."""

Reply = TypeVar("Reply", bound="msgspec.Struct")


def server_at(url: str, ca: Path | None) -> "AbstractAsyncContextManager[HttpTarget]":
    """A client of the server at ``url`` that trusts the certificate ``ca``. Raises `UsageError`."""
    from proteus_cli.replay.target import http_target

    return http_target(url, token(), trusting(ca))


def token() -> str | None:
    """The bearer token that commands send to servers."""
    return os.environ.get(environment("token"))


def trusting(ca: Path | None) -> "ssl.SSLContext | None":
    """A TLS context that trusts the certificates of a PEM file; None: the system's. Raises `UsageError`."""
    import ssl

    from proteus_cli.input_files import SETTINGS, read_bytes

    if ca is None:
        return None
    read_bytes(ca, SETTINGS, hint="`--ca` names a PEM file")
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # also if the file holds no certificate
        raise UsageError(f"`{ca}` holds no certificate that can be read: {error}.", hint="it must be PEM") from error


def asked(url: str, ca: Path | None, path: str, kind: type[Reply], body: "msgspec.Struct | None" = None) -> Reply:
    """The reply of a server to a POST of ``body``, or to a GET without one.

    Raises `UsageError` if the server refuses the request as invalid, else `ServerError`.
    """
    import asyncio
    from contextlib import aclosing

    import msgspec

    from proteus_cli.replay.http_client import HttpClient, HttpReply, why_unreachable

    async def sent() -> HttpReply:
        async with aclosing(HttpClient(url, token(), trusting(ca))) as client, asyncio.timeout(REPLY_WITHIN_S):
            if body is None:
                return await client.get(path)
            content = msgspec.json.encode(body)
            return await client.post(client.head("POST", path), b"Content-Type: application/json\r\n", content)

    try:
        reply = asyncio.run(sent())
    except TimeoutError:
        raise ServerError(f"`{url}` does not answer.", hint=_NOT_THERE) from None
    except UnicodeEncodeError as error:  # an argument may be bytes that are no text
        raise UsageError(f"That can't be asked: {error}.", hint="write it in letters") from None
    except OSError as error:
        raise ServerError(f"Can't reach the server at `{url}`: {why_unreachable(error)}.", hint=_NOT_THERE) from error
    try:
        if reply.status == _OK:
            return msgspec.json.decode(reply.body, type=kind)
        why = msgspec.json.decode(reply.body, type=dict[str, str])["error"].rstrip(".")
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ServerError(
            f"`{url}` answered {reply.status} with something else than it should: {error}.",
            hint="is it a Proteus server of this version?",
        ) from None
    if reply.status in _BAD_REQUESTS:
        raise UsageError(f"The server refuses: {why}.")
    raise ServerError(f"The server refuses: {why}.", hint=_HINTS.get(reply.status, ""))
