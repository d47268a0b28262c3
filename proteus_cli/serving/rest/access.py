"""Which REST requests need a bearer token."""

from collections.abc import Mapping

from proteus_cli.serving.rest.routes import ROUTES
from proteus_cli.serving.rest.site import FILES
from proteus_cli.serving.transport.tokens import Tokens

OPEN_TARGETS = frozenset(
    route.path.replace("{file}", name).encode() for route in ROUTES if not route.needs_token for name in FILES
)
"""Targets that need no token: the files of the page, which hold no data, and the health checks."""


def admits(tokens: Tokens | None, target: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request may be read; without ``tokens`` every request may."""
    if tokens is None or target.partition(b"?")[0] in OPEN_TARGETS:
        return True
    return tokens.accepts(headers.get(b"authorization"))
