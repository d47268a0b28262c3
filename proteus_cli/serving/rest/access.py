"""Which REST requests are read: with a token on a server that has tokens, of no foreign page on others.

A server without tokens trusts whoever reaches it, and a browser reaches it for any page that its user opens. Such a
page can send requests. It cannot read the answers, unless its own name resolves to the address of this server (DNS
rebinding). The host that a request names must be known, and a change must not come from another site.
A server with tokens checks neither, as browsers add no token by themselves.

Sources: RFC 9110, 7.2 (`Host`); RFC 6454 (`Origin`); W3C, Fetch Metadata Request Headers (`Sec-Fetch-Site`).
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from proteus_cli.errors import Forbidden, UnsupportedMediaType
from proteus_cli.serving.http1.exchange import JSON, Refusal
from proteus_cli.serving.logs import LogRateLimiter, fields
from proteus_cli.serving.rest.endpoints import FILES, ROUTES
from proteus_cli.serving.transport.tokens import NEEDS_TOKENS, Tokens
from proteus_cli.urls import authority_host

log = logging.getLogger("proteus.http")

HEALTH = frozenset(route.path.encode() for route in ROUTES if route.path.startswith("/v2/health/"))
WATCHED = HEALTH | {b"/metrics"}
"""Paths that are answered beyond the limit on connections, too: orchestrators and monitoring ask for them."""

OPEN_TARGETS = frozenset(
    route.path.replace("{file}", name).encode() for route in ROUTES if not route.needs_token for name in FILES
)
"""Targets that need no token: the files of the page, which hold no data, and the health checks."""

ANY_HOST = "*"
_READS = frozenset({b"GET", b"HEAD"})
_MAX_NAMED = 16  # hosts that have lines of the log of their own


@dataclass(frozen=True, slots=True)
class KnownHosts:
    """The hosts that a request may be sent to: this machine, ``own`` and ``allowed``, hosts as of `authority_host`.

    Only names can be made to resolve to this server, so a server that other machines reach ``takes_addresses``, all of
    them. Pages of the ``allowed`` hosts may send requests.
    """

    allowed: frozenset[str]
    own: str = ""
    takes_addresses: bool = False

    def take(self, host: str) -> bool:
        """Whether a request may be sent to this host."""
        if self.allowed & {host, ANY_HOST} or (host and host == self.own):
            return True
        try:
            address = ip_address(host)
        except ValueError:
            return host == "localhost"
        return address.is_loopback or self.takes_addresses


class Access:
    """Decides by the head of a request whether it is read."""

    def __init__(self, tokens: Tokens | None, hosts: KnownHosts) -> None:
        self._tokens, self._hosts = tokens, hosts
        self._log_limiter, self._named = LogRateLimiter(time.monotonic), set[str]()

    def refusal(self, method: bytes, target: bytes, headers: Mapping[bytes, bytes]) -> Refusal | None:
        """Why a request must not be read; None if it may. A request without `Host` comes from no browser."""
        path = target.partition(b"?")[0]
        if self._tokens is not None:
            if path in OPEN_TARGETS or self._tokens.accepts(headers.get(b"authorization")):
                return None
            what = "a bearer token is needed" if b"authorization" not in headers else "that bearer token is not known"
            return Refusal(401, what, b"www-authenticate: Bearer\r\n")
        authority = _text(headers[b"host"]) if b"host" in headers else None
        if authority is not None and path not in HEALTH and not self._hosts.take(authority_host(authority)):
            return self._unknown_host(authority_host(authority))
        if method not in _READS and self._is_foreign(authority, headers):
            return Refusal(403, "a page of another site sent this; `--set allowed-hosts=…` names hosts whose pages may")
        return None

    def require_tokens(self) -> None:
        """Raise `Forbidden` on a server without tokens: it does not know who asks."""
        if self._tokens is None:
            raise Forbidden(NEEDS_TOKENS)

    def _unknown_host(self, host: str) -> Refusal:
        if not host:
            return Refusal(403, "`Host` is not the name or address of a host")
        hint = f"for the host `{host}` only with `--set allowed-hosts={host}`, or with tokens"
        if len(self._named) < _MAX_NAMED:  # as clients may think of any number
            self._named.add(host)
        if times := self._log_limiter.occurred(host if host in self._named else ANY_HOST):
            log.warning("refused requests: this server answers %s", hint, extra=fields(requests=times))
        return Refusal(403, f"this server answers {hint}")

    def _is_foreign(self, authority: str | None, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a browser sent the request for a page of another site; all of them name the origin of a POST."""
        site, origin = headers.get(b"sec-fetch-site", b"none"), headers.get(b"origin")
        if site == b"same-origin":
            return False
        if origin is None:
            return site != b"none"  # which is what the user typed
        sender = _text(origin.partition(b"://")[2])
        return sender != authority and authority_host(sender) not in self._hosts.allowed


def require_json(headers: Mapping[bytes, bytes], body: bytes | bytearray) -> None:
    """Raise `UnsupportedMediaType` for a body that a form of another site could have sent.

    A form never has the Content-Type of JSON. Clients that send JSON under another one (curl, Triton's) differ from it
    by their braces: a form escapes the first one, or ends in a line feed.
    """
    media_type = headers.get(b"content-type", JSON).partition(b";")[0].strip().lower()
    if media_type != JSON and not (body.startswith(b"{") and body.endswith(b"}")):
        raise UnsupportedMediaType("the body must be JSON, and its Content-Type `application/json`")


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip().lower()
