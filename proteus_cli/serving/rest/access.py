"""Which REST requests need a bearer token."""

from collections.abc import Mapping

from proteus_cli.serving.rest.site import TARGETS
from proteus_cli.serving.transport.tokens import Tokens

OPEN_TARGETS = frozenset({*(target.encode() for target in TARGETS), b"/v2/health/live", b"/v2/health/ready"})
"""Targets that need no token: the files of the page, which hold no data, and the health checks."""


def admits(tokens: Tokens | None, target: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request may be read; without ``tokens`` every request may."""
    if tokens is None or target.partition(b"?")[0] in OPEN_TARGETS:
        return True
    return tokens.accepts(headers.get(b"authorization"))
