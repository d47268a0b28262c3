"""How clients reach the planes: the front ends of both protocols, their connections and their ports."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from proteus_cli.serving.grpc.service import GrpcHandler
from proteus_cli.serving.http1.connection import ALPN as HTTP_1
from proteus_cli.serving.http1.connection import HttpConnection
from proteus_cli.serving.http1.request_parser import KnownHeads
from proteus_cli.serving.http1.states import HttpLimits
from proteus_cli.serving.http2.connection import ALPN as HTTP_2
from proteus_cli.serving.http2.connection import Http2Connection
from proteus_cli.serving.lifecycle import running
from proteus_cli.serving.oip.images import max_bytes
from proteus_cli.serving.oip.repository import ModelRepository
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.families import Families
from proteus_cli.serving.rest.access import WATCHED, Access, KnownHosts
from proteus_cli.serving.rest.endpoints import Endpoints
from proteus_cli.serving.rest.handler import RestHandler
from proteus_cli.serving.server.deployment import Deployment
from proteus_cli.serving.settings import ServeSettings
from proteus_cli.serving.transport.connections import Connections
from proteus_cli.serving.transport.listening import accepting, max_connections
from proteus_cli.serving.transport.tls import ServerCertificate
from proteus_cli.urls import authority_host

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import Tracing

BODIES = 16
"""Large bodies of the largest size that may be in memory at once."""

MIN_BODY_BYTES = 2**20
"""Bodies of up to this size are taken, even where no family needs them."""

Protocols = Mapping[str, Callable[[], asyncio.BaseProtocol]]
"""Makes the protocol of a new connection, by the scheme of the port's URL."""

_ALPN = {"http": HTTP_1, "grpc": HTTP_2}


@asynccontextmanager
async def open_connections(settings: ServeSettings) -> AsyncIterator[Connections]:
    """The connections of all ports, and their limits. Leaving the context closes them."""
    connections = Connections(
        max_connections=max_connections(settings.max_connections, 1 if settings.grpc_port is None else 2),
        max_body_bytes=BODIES * settings.max_body_bytes,
    )
    async with running(connections.watch_timeouts):
        try:
            yield connections
        finally:
            await connections.close(0.0)


def make_protocols(
    plane: DataPlane,
    models: ModelRepository,
    endpoints: Endpoints,
    deployment: Deployment,
    connections: Connections,
    tracing: "Tracing | None",
    *,
    is_local: bool,
) -> Protocols:
    """``is_local``: only this machine can reach the HTTP port."""
    settings, tokens = deployment.settings, deployment.tokens
    body_bytes = _largest_body_bytes(plane.families, settings)
    allowed = frozenset(map(authority_host, settings.allowed_hosts))
    access = Access(tokens, KnownHosts(allowed, authority_host(settings.host), takes_addresses=not is_local))
    http = RestHandler(
        plane.admission, plane.families, endpoints, access=access, max_body_bytes=body_bytes, tracing=tracing
    )
    grpc = GrpcHandler(
        plane.admission, plane.families, models=models, max_message_bytes=body_bytes, tokens=tokens, tracing=tracing
    )
    known_heads = KnownHeads()

    def http_limits() -> HttpLimits:
        return HttpLimits(body_bytes=http.max_body_bytes, open_paths=WATCHED)

    def families_changed() -> None:
        largest_bytes = _largest_body_bytes(plane.families, settings)
        http.use_families(plane.families, largest_bytes)
        grpc.families_changed(largest_bytes)
        known_heads.forget()

    plane.families.watch(families_changed)
    if tokens is not None:
        tokens.watch(known_heads.forget)
    return {
        "http": lambda: HttpConnection(http, connections, known_heads, http_limits()),
        "grpc": lambda: Http2Connection(grpc, connections),
    }


@asynccontextmanager
async def accepting_on(
    listeners: Mapping[str, socket.socket],
    protocols: Protocols,
    certificate: ServerCertificate | None,
) -> AsyncIterator[None]:
    """Accept connections on all ports until the context is left."""
    async with AsyncExitStack() as stack:
        for name, listener in listeners.items():
            context = certificate.context(_ALPN[name]) if certificate is not None else None
            await stack.enter_async_context(accepting(listener, protocols[name], context))
        yield


def _largest_body_bytes(families: Families, settings: ServeSettings) -> int:
    """Limits for the largest request of any family; open connections keep their earlier limits."""
    needed = (max_bytes(family.signature, family.max_rows, family.image) for family in families.by_name.values())
    return min(settings.max_body_bytes, max(MIN_BODY_BYTES, *needed))
