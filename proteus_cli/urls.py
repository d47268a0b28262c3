"""URLs of servers, as people write them."""

import re
from urllib.parse import SplitResult, quote, urlsplit

from proteus_cli.errors import UsageError

_AUTHORITY = re.compile(r"\[([0-9a-f:.]+)\](?::\d*)?|([^][:@/?#\s]+)(?::\d*)?", re.ASCII)


def authority_host(authority: str) -> str:
    """The host in ``host:port``, in lower case, without brackets; empty if it is malformed."""
    match = _AUTHORITY.fullmatch(authority.lower())
    return (match[1] or match[2]).removesuffix(".") if match else ""


def split_url(url: str, *, of: str, hint: str) -> SplitResult:
    """``"http://127.0.0.1:8000"`` → its parts: http or https, with a host that a resolver may be asked for.

    Raises `UsageError` where it is no such URL ``of`` a server, a collector, ….
    """
    refusal = UsageError(f"`{url}` is not the URL of a {of}.", hint=hint)
    try:
        parts = urlsplit(url)
        has_host = bool((parts.hostname or "").encode("idna"))
        _ = parts.port  # raises where it is no number, or too large
    except ValueError:
        raise refusal from None
    if not has_host or parts.scheme not in {"http", "https"}:
        raise refusal
    return parts


def path_of(name: str) -> str:
    """A name as a part of a path, of several segments where it has slashes, as `m/versions/2`.

    Raises `UsageError` where it is no text, or a segment would not stay as it is.
    """
    if {"", ".", ".."} & set(name.split("/")):
        raise UsageError(f"`{name}` is no name.", hint="write the name of a model")
    try:
        return quote(name)
    except UnicodeEncodeError as error:  # an argument may be bytes that are no text
        raise UsageError(f"That can't be asked: {error}.", hint="write it in letters") from None
