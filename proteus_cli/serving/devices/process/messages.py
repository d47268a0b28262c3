"""What the server and the process of a device send each other: commands to the process, events from it.

One message for each batch either way; its tensors lie beside it, in shared memory (`TransferBuffer`).
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
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
from proteus_cli.serving.devices.process.spec import DeviceSpec

OPENING = -1
"""The number of a `FailedEvent` when the device cannot be opened; batches and loads count from 0."""

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
        """As `of`; that of a bug is logged, too, as its traceback stays here."""
        if not isinstance(error, ProteusError):
            log.error("a bug: %r", error, exc_info=error)
        return cls.of(error)

    def error(self) -> Exception:
        """The error that was sent: a `ProteusError` as it was, any other as a `RuntimeError` that quotes it."""
        kind = _ERRORS.get(self.kind)
        return RuntimeError(self.message) if kind is None else kind(self.message, hint=self.hint)


# --- to the process


class OpenCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message. The process sends what it logs from ``log_level`` on."""

    spec: DeviceSpec
    log_level: int
    switch_interval_s: float


class LoadCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Load an engine, as `Executor.load` does; the answer is `LoadedEvent` or `FailedEvent`."""

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
    """Run a batch; the answer is `RanEvent` or `FailedEvent`. ``buffer`` has its inputs, ``rows`` are of each part.

    ``bounds`` are by a clock that both processes share.
    """

    number: int
    buffer: int
    key: VariantKey
    rows: Sequence[int]
    bounds: ExitBounds | None = None


class CloseCommand(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The last message: end when all batches have ended."""


# --- from the process


class OpenedEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The device is open; ``platform`` is the name of its backend. Loads there `Executor.can_give_way`, or not."""

    platform: str
    can_give_way: bool = False


class LoadedEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """An engine is loaded."""

    number: int
    signature: Signature


class RanEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A batch has run, until ``ended_s`` (`time.monotonic`); its outputs, of these ``shapes``, are in its buffer."""

    number: int
    compute_s: float
    ended_s: float
    shapes: Sequence[tuple[int, ...]]
    failures: Mapping[int, SentError]


class LeftEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Parts have left a batch before its end, as `RanEvent` tells of a whole one; its buffer has their rows alone.

    It comes with the descriptor of a buffer of its own, which goes with it: the batch's may not have been read.
    """

    number: int
    parts: Sequence[int]
    compute_s: float
    ended_s: float
    shapes: Sequence[tuple[int, ...]]


class FailedEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A batch or a load has failed; or, with the number `OPENING`, the device cannot be opened."""

    number: int
    error: SentError


class LostEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The device is lost; the process ends."""

    error: SentError


class LogEvent(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A line for the server's log."""

    level: int
    logger: str
    message: str
    fields: Mapping[str, Any]


DeviceCommand = OpenCommand | LoadCommand | CancelLoadCommand | UnloadCommand | RunCommand | CloseCommand
DeviceEvent = OpenedEvent | LoadedEvent | RanEvent | LeftEvent | FailedEvent | LostEvent | LogEvent


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
