"""A gRPC client in memory, frame by frame."""

from typing import Any, cast

from hpack import Decoder
from http2_peer import START, Peer, data
from small_plane import SmallPlane

from proteus_cli.serving.grpc.service import GrpcHandler
from proteus_cli.serving.http2 import frames
from proteus_cli.serving.http2.limits import Http2Limits
from proteus_cli.serving.oip.codes import GrpcStatus
from proteus_cli.serving.oip.repository import ModelRepository
from proteus_cli.serving.transport.connections import Connections

INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
MAX_BYTES = 50_000


class Client:
    """A gRPC client, frame by frame. Only within a running loop."""

    def __init__(
        self,
        limits: Http2Limits | None = None,
        handler: GrpcHandler | None = None,
        connections: Connections | None = None,
        **options: Any,
    ) -> None:
        self.plane: Any = cast("Any", SmallPlane())
        self.handler = handler or self._handler(**options)
        self.peer = Peer(self.handler, limits, connections)
        self.peer.feed(START)
        self.streams = 0

    def _handler(self, **options: Any) -> GrpcHandler:
        plane = self.plane
        models = ModelRepository(plane, plane, plane.lifecycle, plane, plane.clock, platform="numpy", profiles={})
        return GrpcHandler(plane, plane, models=models, **{"max_message_bytes": MAX_BYTES, **options})

    def call(self, path: str, *pieces: bytes, ended: bool = True, **metadata: str) -> int:
        """Open a stream, send the pieces, and end it; its number."""
        stream, self.streams = 2 * self.streams + 1, self.streams + 1
        self.peer.feed(self.peer.request(stream, fields=self.fields_of(path, **metadata).items()))
        self.peer.feed(*(data(stream, piece) for piece in pieces))
        if ended:
            self.peer.feed(data(stream, b"", ended=True))
        return stream

    def fields_of(self, path: str, **metadata: str) -> dict[str, str]:
        """The header fields of a call."""
        return {
            ":method": "POST", ":scheme": "http", ":path": path, ":authority": "here", "te": "trailers",
            "content-type": "application/grpc", **{name.replace("_", "-"): value for name, value in metadata.items()},
        }  # fmt: skip

    def fields(self, stream: int) -> dict[str, str]:
        """All header fields and trailers of an answer."""
        decoder, found = Decoder(), dict[str, str]()
        for frame in self.peer.of_kind(frames.HEADERS):
            decoded = decoder.decode(frame.payload, raw=True)
            if frame.stream == stream:
                found |= {name.decode(): value.decode() for name, value in decoded}
        return found

    def status(self, stream: int) -> GrpcStatus:
        assert self.peer.is_answered(stream)
        return GrpcStatus(int(self.fields(stream)["grpc-status"]))

    def messages(self, stream: int) -> list[bytes]:
        body, found = self.peer.body(stream), []
        while body:
            size = int.from_bytes(body[1:5], "big")
            assert body[0] == 0
            found.append(body[5 : 5 + size])
            body = body[5 + size :]
        return found
