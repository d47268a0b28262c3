"""What the server and the process of a device say to each other.

One message for each batch either way; tensors lie beside it, in shared memory. The socket keeps messages apart and in
order (`SOCK_SEQPACKET`), so that each costs one system call on either side.
"""

import array
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
import numpy as np

from proteus_cli.backends.base import Signature
from proteus_cli.errors import (
    ArtefactError,
    BackendUnavailable,
    BuildCancelled,
    DeviceLost,
    DeviceUnavailable,
    EngineBroken,
    EngineError,
    OutOfDeviceMemory,
    ProteusError,
    UsageError,
)
from proteus_cli.serving.devices.process.inner import DeviceSpec

OPENING = -1
"""The number of what fails where the device can't be opened; batches and loads count from 0."""

_MAX_BYTES = 2**15  # of a message on the socket; larger ones lie beside it
_BESIDE = b"\xc1"  # begins no MessagePack
_MAX_DESCRIPTORS = 2
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array.array("i").itemsize)
_FLAGS = socket.MSG_CMSG_CLOEXEC if hasattr(socket, "MSG_CMSG_CLOEXEC") else 0

_KINDS = {
    kind.__name__: kind
    for kind in (
        ProteusError, UsageError, ArtefactError, DeviceUnavailable, BackendUnavailable, EngineError, EngineBroken,
        OutOfDeviceMemory, BuildCancelled, DeviceLost,
    )
}  # fmt: skip


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error; ``kind`` is the name of its class."""

    kind: str
    message: str
    hint: str = ""


def told(error: Exception) -> Failure:
    """An error as it is sent."""
    if isinstance(error, ProteusError):
        return Failure(type(error).__name__, error.message, error.hint)
    return Failure(type(error).__name__, repr(error))


def heard(failure: Failure) -> Exception:
    """The error that was sent: one of ours as it was, any other as a `RuntimeError` that quotes it."""
    kind = _KINDS.get(failure.kind)
    return RuntimeError(failure.message) if kind is None else kind(failure.message, hint=failure.hint)


# --- to the process


class Open(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message. What is logged there from ``log_level`` on is said here."""

    inner: DeviceSpec
    log_level: int
    switch_interval_s: float


class Load(msgspec.Struct, frozen=True, array_like=True, tag=True):
    number: int
    family: str
    variant: str
    model: str
    warm_up_rows: int


class Forget(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Nobody waits for the load of this number any more, be it done or not."""

    number: int
    family: str
    variant: str


class Unload(msgspec.Struct, frozen=True, array_like=True, tag=True):
    family: str
    variant: str


class Run(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A batch, with its inputs in ``slot``, each in one piece; ``rows`` of each part."""

    number: int
    slot: int
    family: str
    variant: str
    rows: Sequence[int]


class Close(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The last message: end when all batches have ended."""


# --- from the process


class Opened(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The device is open; ``platform`` is the name of its backend."""

    platform: str


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=True):
    number: int
    signature: Signature


class Ran(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A batch has run, until ``ended_s`` (`time.monotonic`); its outputs, of these ``shapes``, are in its slot."""

    number: int
    compute_s: float
    ended_s: float
    shapes: Sequence[tuple[int, ...]]
    failures: Mapping[int, Failure]


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A batch, a load, or `OPENING`."""

    number: int
    failure: Failure


class Lost(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Nothing runs there any more; the process ends."""

    failure: Failure


class Said(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A line for the log."""

    level: int
    logger: str
    message: str
    fields: Mapping[str, Any]


ToProcess = Open | Load | Forget | Unload | Run | Close
FromProcess = Opened | Loaded | Ran | Failed | Lost | Said
Message = TypeVar("Message")


class Channel(Generic[Message]):
    """One end of the socket; the messages of the other end are of the types of ``decoder``. Any thread may send."""

    def __init__(self, end: socket.socket, decoder: "msgspec.msgpack.Decoder[Message]") -> None:
        self._end, self._decoder = end, decoder

    def fileno(self) -> int:
        return self._end.fileno()

    def set_timeout(self, timeout_s: float) -> None:
        """How long to wait for a message at most, where it is waited for."""
        self._end.settimeout(timeout_s)

    def send(self, message: Any, descriptors: Sequence[int] = (), *, wait: bool) -> None:
        """Send a message, and file descriptors, which are closed here.

        Raises `BlockingIOError` where it would have to wait and shall not, `ConnectionError` where nobody is there.
        """
        body, beside = _ENCODER.encode(message), list(descriptors)
        try:
            if len(body) > _MAX_BYTES:
                beside.insert(0, _memory_of(body))
                body = _BESIDE
            flags = 0 if wait else socket.MSG_DONTWAIT
            if beside:
                socket.send_fds(self._end, [body], beside, flags)
            else:
                self._end.send(body, flags)
        finally:
            for descriptor in beside:
                os.close(descriptor)

    def receive(self, *, wait: bool) -> tuple[Message, list[int]] | None:
        """The next message and the descriptors that came along; None where the other end is closed.

        Raises `BlockingIOError` where there is none yet and it isn't waited for, `TimeoutError` where that takes too
        long.
        """
        flags = _FLAGS if wait else _FLAGS | socket.MSG_DONTWAIT
        try:
            body, ancillary, _, _ = self._end.recvmsg(_MAX_BYTES, _ANCILLARY_BYTES, flags)
        except ConnectionResetError:  # said once, where the other end left messages unread; its own come next
            return self.receive(wait=wait)
        if not body:
            return None
        descriptors = _descriptors(ancillary) if ancillary else []
        if body == _BESIDE:
            body = _content_of(descriptors.pop(0))
        return self._decoder.decode(body), descriptors

    def close(self) -> None:
        self._end.close()


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    return found.tolist()


def _memory_of(body: bytes) -> int:
    descriptor = os.memfd_create("proteus-message", os.MFD_CLOEXEC)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(body)
    return descriptor


def _content_of(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        file.seek(0)
        return file.read()


def _encoded(value: Any) -> str:
    return value.str if isinstance(value, np.dtype) else str(value)


def _decoded(kind: Any, value: Any) -> Any:
    return np.dtype(value) if kind == np.dtype[Any] else value


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_encoded)
TO_PROCESS: "msgspec.msgpack.Decoder[ToProcess]" = msgspec.msgpack.Decoder(ToProcess, dec_hook=_decoded)
FROM_PROCESS: "msgspec.msgpack.Decoder[FromProcess]" = msgspec.msgpack.Decoder(FromProcess, dec_hook=_decoded)
