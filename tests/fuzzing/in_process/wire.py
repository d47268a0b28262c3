"""A connection in this process whose other end is the fuzzer, or another protocol."""

import asyncio
from collections.abc import Iterable
from typing import Any

from fuzzing.in_process.loop import WatchedLoop


class Wire(asyncio.Transport):
    """The transport of ``protocol``, a buffered one: what it sends is in ``sent``, what it got in ``received``."""

    def __init__(self, protocol: Any, loop: WatchedLoop) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.sent: list[bytes] = []
        self.received = b""
        self.to: Wire | None = None
        self._protocol, self._loop, self._is_closed = protocol, loop, False
        self._call(protocol.connection_made, self)

    def send(self, content: bytes) -> None:
        """Have the protocol read this."""
        self.received += content
        rest = memoryview(content)
        while rest and not self._is_closed:
            target = self._call(self._protocol.get_buffer, -1)
            size = min(len(target), len(rest))
            target[:size] = rest[:size]
            self._call(self._protocol.buffer_updated, size)
            rest = rest[size:]

    def end(self) -> None:
        """The other end is gone."""
        if not self._is_closed:
            self._is_closed = True
            self._call(self._protocol.connection_lost, None)

    def _call(self, callback: Any, *args: Any) -> Any:
        return self._loop.watch.call(callback, *args)

    # --- asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._is_closed, "written to after the end"
        if self.to is not None:
            self._loop.call_soon(self.to.send, bytes(data))
        else:
            self.sent.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_closed

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._loop.call_soon(self._protocol.connection_lost, None)
            if self.to is not None:
                self._loop.call_soon(self.to.end)

    abort = close


def connected(one: Any, other: Any, loop: WatchedLoop) -> tuple[Wire, Wire]:
    """Wires of two protocols that talk to each other."""
    far = Wire(other, loop)
    near = Wire(one, loop)
    near.to, far.to = far, near
    for wire in (near, far):  # what was sent as soon as it was connected
        for content in wire.sent:
            wire.write(content)
    return near, far
