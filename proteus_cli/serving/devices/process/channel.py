"""A socket between the server and the process of a device, which carries messages and file descriptors.

The socket keeps messages apart and in order (`SOCK_SEQPACKET`), so that each costs one system call on either side.
"""

import array
import os
import socket
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import msgspec

from proteus_cli.serving.devices.process.messages import ENCODER

_MAX_BYTES = 2**15  # of a message on the socket; a larger one goes through memory of its own
_IN_MEMORY = b"\xc1"  # sent instead of a large message; begins no MessagePack
_MAX_DESCRIPTORS = 2
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
_FLAGS = socket.MSG_CMSG_CLOEXEC if hasattr(socket, "MSG_CMSG_CLOEXEC") else 0

ReceivedT = TypeVar("ReceivedT")


class UnreadableMessage(Exception):
    """A message that is malformed, or whose memory did not come with it."""


class Channel(Generic[ReceivedT]):
    """One end of the socket; ``decoder`` knows the messages of the other end. Any thread may send."""

    def __init__(self, end: socket.socket, decoder: "msgspec.msgpack.Decoder[ReceivedT]") -> None:
        self._end, self._decoder = end, decoder

    def fileno(self) -> int:
        return self._end.fileno()

    def set_timeout(self, timeout_s: float) -> None:
        """How long `receive` waits at most."""
        self._end.settimeout(timeout_s)

    def send(self, message: Any, descriptors: Sequence[int] = (), *, wait: bool) -> None:
        """Send a message and file descriptors, which are closed here.

        Raises `BlockingIOError` where the socket is full and ``wait`` is false, `ConnectionError` where the other end
        is closed.
        """
        body, to_send = ENCODER.encode(message), list(descriptors)
        try:
            if len(body) > _MAX_BYTES:
                to_send.insert(0, _in_memory(body))
                body = _IN_MEMORY
            flags = 0 if wait else socket.MSG_DONTWAIT
            if to_send:
                socket.send_fds(self._end, [body], to_send, flags)
            else:
                self._end.send(body, flags)
        finally:
            for descriptor in to_send:
                os.close(descriptor)

    def receive(self, *, wait: bool) -> tuple[ReceivedT, list[int]] | None:
        """The next message and the descriptors that came with it; None where the other end is closed.

        Raises `BlockingIOError` where there is none yet and ``wait`` is false, `TimeoutError` after the timeout, and
        `UnreadableMessage`.
        """
        flags = _FLAGS if wait else _FLAGS | socket.MSG_DONTWAIT
        try:
            body, ancillary, _, _ = self._end.recvmsg(_MAX_BYTES, _ANCILLARY_BYTES, flags)
        except ConnectionResetError:  # raised once, where the other end left messages unread; its own come next
            return self.receive(wait=wait)
        if not body:
            return None
        descriptors = _descriptors(ancillary) if ancillary else []
        try:
            if body == _IN_MEMORY:
                body = _content(descriptors.pop(0))
            return self._decoder.decode(body), descriptors
        except (msgspec.DecodeError, UnicodeDecodeError, IndexError, OSError) as error:
            # Where no more files can be open, the system drops descriptors; a broken process may send anything.
            raise UnreadableMessage(f"a message can't be read: {error!r}") from error

    def close(self) -> None:
        """Close this end; the other one reads an end."""
        self._end.close()


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return found.tolist()


def _in_memory(body: bytes) -> int:
    """The descriptor of memory that holds ``body``."""
    descriptor = os.memfd_create("proteus-message", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(body)
    return descriptor


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()
