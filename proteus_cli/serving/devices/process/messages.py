"""The messages between a server and the process of a device: commands to the process, events from it.

There is one message per batch in either direction. Its tensors travel beside it: on this machine in shared memory
(`TransferBuffer`), from another machine behind the message in its frame (`remote/channel/frames.py`). Times count from
the moment at which the batch was sent on this machine, or arrived from another one: no clock is shared over a network.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import (
    ArtefactError,
    BackendUnavailable,
    BuildCancelled,
    DeviceLost,
    DeviceUnavailable,
    EngineBroken,
    EngineError,
    ModelOnItsWay,
    OutOfDeviceMemory,
    ProteusError,
    UsageError,
)

OPENING = -1
"""The number of a `FailedEvent` when the device cannot be opened; batches and loads count from 0."""

Elapsed = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
"""Seconds: a finite number."""

log = logging.getLogger("proteus.process")

_ERRORS = {
    kind.__name__: kind
    for kind in (
        ProteusError, UsageError, ArtefactError, DeviceUnavailable, BackendUnavailable, EngineError, EngineBroken,
        OutOfDeviceMemory, BuildCancelled, ModelOnItsWay, DeviceLost,
    )
}  # fmt: skip


class SentError(msgspec.Struct, frozen=True, array_like=True):
    """An error as it is sent; ``kind`` is the name of its class."""

    kind: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: Exception) -> "SentError":
        """An error as it is sent: its class by name, as only errors of ours are known on the other side."""
        if isinstance(error, ProteusError):
            return cls(type(error).__name__, error.message, error.hint)
        return cls(type(error).__name__, repr(error))

    @classmethod
    def logged(cls, error: Exception) -> "SentError":
        """As `of`; a bug is logged, too, because its traceback stays here."""
        if not isinstance(error, ProteusError):
            log.error("a bug: %r", error, exc_info=error)
        return cls.of(error)

    def error(self) -> Exception:
        """The error that was sent: a `ProteusError` as it was, any other as a `RuntimeError` that quotes it."""
        kind = _ERRORS.get(self.kind)
        return RuntimeError(self.message) if kind is None else kind(self.message, hint=self.hint)


# --- the device


class CpuSpec(msgspec.Struct, frozen=True, tag=True):
    """ONNX Runtime on the cores of a device."""

    device: Device


class GpuSpec(msgspec.Struct, frozen=True, tag=True):
    """TensorRT on a GPU that runs up to ``slots`` batches at once; engines are kept in the directory ``built``."""

    device: Device
    built: str
    slots: int


class EmulatedSpec(msgspec.Struct, frozen=True, tag=True):
    """The emulated device of a profile; ``signatures`` by family."""

    profile: Profile
    signatures: Mapping[str, Signature]

    @property
    def device(self) -> Device:
        return self.profile.device


DeviceSpec = CpuSpec | GpuSpec | EmulatedSpec


class RemoteUse(msgspec.Struct, frozen=True):
    """How a process serves another machine: the directory of ``models`` by digest, and the cluster's ``key``."""

    models: str
    key: str | None


# --- from the server


class LoadCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Load an engine, as `Executor.load` does; the answer is `LoadedEvent` or `FailedEvent`.

    ``model`` is a path on this machine, and a digest from another one.
    """

    number: int
    key: VariantKey
    model: str
    warm_up_rows: int
    gives_way: bool = False


class CancelLoadCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Cancel the load of this number; where it is done already, unload the engine."""

    number: int
    key: VariantKey


class UnloadCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Free an engine."""

    key: VariantKey


class RunCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Run a batch; the answer is `RanEvent` or `FailedEvent`. ``rows`` has the rows of each part.

    On this machine, shared memory with the number ``buffer`` has the inputs, and ``sent_s`` is `time.monotonic`; it is
    0 from another machine. Times of ``bounds`` count from the sending.
    """

    number: int
    key: VariantKey
    rows: Sequence[int]
    bounds: ExitBounds | None = None
    buffer: int = 0
    sent_s: float = 0.0


class CloseCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The last message: end when all batches have ended."""


# --- from whoever starts the process


class OpenCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message. The process sends what it logs from ``log_level`` on.

    With ``remote``, the server connects later (`ConnectCommand`).
    """

    spec: DeviceSpec
    log_level: int
    switch_interval_s: float
    remote: RemoteUse | None = None


class ConnectCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The descriptor of the server's connection comes with this; no byte of TLS was read."""


class ShareCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Other servers use the device, too, or no longer: each batch waits for a `TurnCommand`, or none does."""

    is_shared: bool


class TurnCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The batch that has waited longest may run; it waited ``waited_s`` while batches of other servers ran."""

    number: int
    waited_s: float


# --- to the server


class OpenedEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The device is open; ``platform`` is the name of its backend. Loads there `Executor.can_give_way`, or not."""

    platform: str
    can_give_way: bool = False


class LoadedEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An engine is loaded."""

    number: int
    signature: Signature


class RanEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A batch has run. Its outputs have these ``shapes``.

    It ended on the device after ``ended_s``, and its answer was sent after ``elapsed_s``. For ``waited_s`` of that,
    batches of other servers ran.
    """

    number: int
    compute_s: Elapsed
    elapsed_s: Elapsed
    ended_s: Elapsed
    waited_s: Elapsed
    shapes: Sequence[tuple[int, ...]]
    failures: Mapping[int, SentError]


class LeftEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Parts have left a batch before its end; the tensors are their rows alone.

    In shared memory, it comes with a buffer of its own: the batch's may not have been read.
    """

    number: int
    parts: Sequence[Annotated[int, msgspec.Meta(ge=0)]]
    compute_s: Elapsed
    ended_s: Elapsed
    shapes: Sequence[tuple[int, ...]]


class FailedEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A batch or a load has failed; or, with the number `OPENING`, the device cannot be opened."""

    number: int
    error: SentError


# --- to whoever has started the process


class LostEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The device is lost; the process ends."""

    error: SentError


class LogEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A line for the log."""

    level: int
    logger: str
    message: str
    fields: Mapping[str, Any]


class TurnWantedEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A batch waits for its turn."""


class TurnEndedEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The batch of the turn with this number has ended."""

    number: int


ServerCommand = LoadCommand | CancelLoadCommand | UnloadCommand | RunCommand | CloseCommand
ServerEvent = OpenedEvent | LoadedEvent | RanEvent | LeftEvent | FailedEvent
DeviceCommand = ServerCommand | OpenCommand | ConnectCommand | ShareCommand | TurnCommand
DeviceEvent = ServerEvent | LostEvent | LogEvent | TurnWantedEvent | TurnEndedEvent


# --- encoded


def _encoded(value: Any) -> str:
    return value.str if isinstance(value, np.dtype) else str(value)


def decoded(kind: Any, value: Any) -> Any:
    """The ``dec_hook`` of decoders of messages. Raises `ValueError` for a type of values that are no plain numbers."""
    if kind != np.dtype[Any]:
        return value
    dtype = np.dtype(value)
    if dtype.hasobject:
        raise ValueError(f"{dtype} is no type of tensors")
    return dtype


ENCODER = msgspec.msgpack.Encoder(enc_hook=_encoded)
COMMANDS: "msgspec.msgpack.Decoder[DeviceCommand]" = msgspec.msgpack.Decoder(DeviceCommand, dec_hook=decoded)
EVENTS: "msgspec.msgpack.Decoder[DeviceEvent]" = msgspec.msgpack.Decoder(DeviceEvent, dec_hook=decoded)
SERVER_COMMANDS: "msgspec.msgpack.Decoder[ServerCommand]" = msgspec.msgpack.Decoder(ServerCommand, dec_hook=decoded)
SERVER_EVENTS: "msgspec.msgpack.Decoder[ServerEvent]" = msgspec.msgpack.Decoder(ServerEvent, dec_hook=decoded)
"""The messages over a network; the other two decoders take all."""
