"""One end of a connection that carries frames, over TCP and where there is a key over TLS."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from proteus_cli.buffers import Buffer
from proteus_cli.serving.devices.process.messages import ENCODER
from proteus_cli.serving.devices.remote.channel.frames import (
    MAX_TENSOR_BYTES,
    SIGN_OF_LIFE,
    FrameParser,
    UnreadableFrame,
    pieces_of,
)
from proteus_cli.serving.devices.remote.channel.messages import MAX_BEHIND_BYTES

MAX_UNSENT_BYTES = 2 * MAX_TENSOR_BYTES
"""Bytes to send at which an end is no longer read."""

log = logging.getLogger("proteus.cluster")

ReceivedT = TypeVar("ReceivedT")
Received_contra = TypeVar("Received_contra", contravariant=True)


class ChannelOwner(Protocol[Received_contra]):
    """The receiver of the frames of a channel."""

    def received(self, message: Received_contra, behind: memoryview) -> None:
        """A frame came."""
        ...

    def ended(self, reason: str) -> None:
        """The connection has ended; called once, unless this end closed it."""
        ...


class FrameChannel(asyncio.BufferedProtocol, Generic[ReceivedT]):
    """Sends frames, and hands received ones to its ``owner``.

    ``bytes_sent`` and ``bytes_received`` grow with whatever goes and comes, without what TLS adds; ``sent_s`` is when
    this end last sent something (`time.monotonic`).

    ``peer`` is the address of the other end; ``on_connected`` is called once it is there, after the handshake of TLS.
    A frame that is malformed or too large ends the connection.
    """

    def __init__(
        self,
        decoder: "msgspec.msgpack.Decoder[Any]",
        parser: FrameParser,
        on_connected: "Callable[[FrameChannel[ReceivedT]], object]" = lambda _: None,
    ) -> None:
        self.owner: ChannelOwner[ReceivedT] | None = None
        self.bytes_sent = self.bytes_received = 0
        self.sent_s = 0.0
        self.peer = ""
        self._decoder, self._parser, self._on_connected = decoder, parser, on_connected
        parser.behind_limit = self._behind_limit
        self._transport: asyncio.Transport | None = None

    def decode_with(
        self, decoder: "msgspec.msgpack.Decoder[Any]", max_message_bytes: int, max_behind_bytes: int
    ) -> None:
        """Take other messages from now on, of up to this size."""
        self._decoder = decoder
        self._parser.allow(max_message_bytes, max_behind_bytes)

    def send(self, message: msgspec.Struct, behind: Sequence[Buffer] = ()) -> int:
        """Send a frame without waiting, and return its bytes; nothing once closed.

        The bytes ``behind`` must not change.
        The owner is never called meanwhile. Raises `UnreadableFrame` where the frame is larger than allowed.
        """
        return self._write(pieces_of(ENCODER.encode(message), behind))

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for the other end to read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send_sign_of_life(self) -> None:
        """Send what costs the other end the least."""
        self._write([SIGN_OF_LIFE])

    def _write(self, pieces: Sequence[Buffer]) -> int:
        transport = self._transport
        if transport is None:
            return 0
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            asyncio.get_running_loop().call_soon(self._end, "the other end takes no more")
            return 0
        if len(pieces) == 1:
            transport.write(pieces[0])
            size = len(pieces[0])
        else:
            transport.writelines(pieces)
            size = sum(memoryview(each).nbytes for each in pieces)
        self.bytes_sent += size
        self.sent_s = time.monotonic()
        return size

    def close(self, *, flush: bool = False) -> None:
        """End the connection; ``flush``: send what was to be sent before. The owner hears nothing more."""
        self.owner, transport, self._transport = None, self._transport, None
        if transport is not None:
            transport.close() if flush else transport.abort()

    # --- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        host, port, *_ = transport.get_extra_info("peername") or ("?", 0)  # none where the other end is gone already
        self.peer = f"{host}:{port}"
        self._on_connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._parser.room

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_received += nbytes
        parser = self._parser
        try:
            frame = parser.feed(nbytes)
            while frame is not None and self._transport is not None:
                message, behind = frame
                decoded = self._decoded(message)
                if self.owner is not None:
                    self.owner.received(decoded, behind)
                frame = None if parser.is_empty else parser.feed()
        except UnreadableFrame as error:
            self._end(str(error))

    def _decoded(self, message: memoryview) -> ReceivedT:
        try:
            return cast("ReceivedT", self._decoder.decode(message))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnreadableFrame(f"a message can't be read: {error}") from error

    def _behind_limit(self, message: memoryview) -> int:
        return MAX_BEHIND_BYTES.get(type(self._decoded(message)), 0)

    def eof_received(self) -> None:
        self._end("the other end has closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc) if exc is not None else "the connection has ended")

    def _end(self, reason: str) -> None:
        owner = self.owner
        self.close()
        if owner is not None:
            owner.ended(reason)
