"""A server that reads nothing and answers at once: what the clients themselves can do. Ports: HTTP, gRPC."""

import asyncio
import struct
import sys
from typing import cast

import uvloop

from benchmarks.serving.connections import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
    frames,
)

_BODY = b'{"y": [' + b"1.0, " * 9 + b"1.0]}"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY
_SCORES = b"\x32\x28" + struct.pack("<10f", *[1.0] * 10)  # raw_output_contents of a ModelInferResponse
_MESSAGE = b"\0\0\0\0" + bytes([len(_SCORES)]) + _SCORES
_STATUS_200, _GRPC_STATUS_0 = b"\x88", b"\x00\x0bgrpc-status\x010"


class NullHttp(asyncio.Protocol):
    """Answers once the bytes are there that a request says it has."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._missing = cast("asyncio.Transport", transport), 0

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            start = data.index(b"\r\nContent-Length: ") + 18
            self._missing = data.index(b"\r\n\r\n", start) + 4 + int(data[start : data.index(b"\r", start)])
        self._missing -= len(data)
        if not self._missing:
            self._transport.write(_ANSWER)


class NullGrpc(asyncio.Protocol):
    """Answers each stream as it ends, and opens all windows wide."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._buffer = cast("asyncio.Transport", transport), b""
        window = (2**31 - 1 - 65_535).to_bytes(4, "big")
        self._transport.write(frame(SETTINGS, 0, 0, b"") + frame(8, 0, 0, window))

    def data_received(self, data: bytes) -> None:
        buffer, out, end = (self._buffer + data).removeprefix(PREFACE), b"", 0
        if len(buffer) < FRAME_BYTES:
            self._buffer = buffer
            return
        for kind, flags, stream, _, next_at in frames(buffer):
            end = next_at
            if kind == SETTINGS and not flags & 1:
                out += frame(SETTINGS, 1, 0, b"")
            elif kind == DATA and flags & END_STREAM:
                out += frame(HEADERS, END_HEADERS, stream, _STATUS_200) + frame(DATA, 0, stream, _MESSAGE)
                out += frame(HEADERS, END_HEADERS | END_STREAM, stream, _GRPC_STATUS_0)
        self._buffer = buffer[end:]
        if out:
            self._transport.write(out)


async def _serve(http_port: int, grpc_port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(NullHttp, "127.0.0.1", http_port, backlog=1024)
    await loop.create_server(NullGrpc, "127.0.0.1", grpc_port, backlog=1024)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(*(int(port) for port in sys.argv[1:])))
