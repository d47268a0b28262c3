"""The messages between a server and an agent, each in a frame; pieces of files lie behind the message.

Batches do not pass the agent: the server sends them to the process of the device (`devices/process/messages.py`) over a
connection of its own. A device may be opened anew at any time, and ``opening`` says which opening a message is about. A
message with a value that its type excludes can't be read, which ends the connection.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec

from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.domain.catalog import Family
from proteus_cli.domain.device import Device
from proteus_cli.input_files import ARTEFACT
from proteus_cli.serving.devices.process.messages import (
    EmulatedSpec,
    FailedEvent,
    LeftEvent,
    LostEvent,
    RanEvent,
    RunCommand,
    SentError,
    decoded,
)
from proteus_cli.serving.devices.remote.channel.frames import MAX_TENSOR_BYTES

PROTOCOL = 7
"""Both ends must have the same version of all messages; `Hello`, `Inquiry` and `ConnectionRefused` never change."""

MAX_SERVERS = 16
"""The most servers of an agent: each has engines of its own, and counts on its part of a device."""

SharedBy = Annotated[int, msgspec.Meta(ge=2, le=MAX_SERVERS)]
"""How many servers have a device open, where that is more than one."""

MAX_FIRST_BYTES = 4096
"""The most bytes of the first message of a connection; no bytes follow it."""

PIECE_BYTES = 2**18
"""The most bytes of a file in one message."""

PIECES_ON_THE_WAY = 4
"""Bytes of a model on their way at once, so that a long round trip does not limit the rate: 50 MB/s at 20 ms. A batch
behind them waits for up to 8 ms on 1 Gbit/s. Models that are sent ahead go one after another; a plan may wait for
several at once.
"""


class Inventory(msgspec.Struct, frozen=True):
    """The devices of an agent, by their ids there, and its versions by name.

    ``free_bytes`` is the free memory of the machine; 0 where it is unknown. ``servers`` are the addresses of the
    servers that it serves now. An agent that ``emulates`` has no devices of its own. ``name`` is the name of its host,
    for servers that know only its address; it may be empty. ``free_disk_bytes`` is what models and engines may still
    take. ``shared``: how many servers have a device open, where that is more than one.
    """

    devices: tuple[Device, ...]
    versions: Mapping[str, str]
    free_bytes: int
    servers: tuple[str, ...] = ()
    emulates: bool = False
    name: str = ""
    free_disk_bytes: int = 0
    shared: Mapping[str, SharedBy] = {}


# --- to an agent


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The first message. ``server`` is drawn once by each server, ``epoch`` counts its connections to this agent."""

    protocol: int
    version: str
    server: str
    epoch: int


class Inquiry(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A first message that only asks for the inventory, also while the agent serves. The agent then disconnects."""

    protocol: int
    version: str


class OpenDevice(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Open a device of the inventory, for up to ``slots`` batches at once; also one that was lost or is open.

    Answered by `DeviceStarted` or `DeviceEnded`. An agent that emulates opens an `EmulatedSpec`, which is behind this,
    under any id.
    """

    opening: int
    device: str
    slots: int


class AbandonDevice(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Give an opening up at once, with what runs there."""

    opening: int


class OfferModel(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Say how much there is of the model of a digest; ``parts`` are the names and sizes of its files."""

    digest: str
    parts: Sequence[tuple[str, int]]


class ModelPiece(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The bytes behind this are a part of the file, from ``offset``. The answer is `ModelState`."""

    digest: str
    part: int
    offset: int


class WithdrawModel(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The server needs a model that it has offered no more: the agent may remove it. There is no answer."""

    digest: str


class MeasureOptions(msgspec.Struct, frozen=True):
    """The options of `proteus profile` that devices are measured with, here or by an agent; ``devices``: `--device`.

    ``beside_servers``: measure also CPUs that servers have open, at low priority.
    """

    devices: str
    budget_s: float | None
    max_batch: int
    max_slots: int
    accepts_noise: bool
    as_type: str | None
    force: bool
    beside_servers: bool = False


class MeasureDevices(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Measure families on devices of the agent; answered by `Measured`, with the same ``number``.

    ``onnx`` of each variant, and ``eval`` of a family, are digests of files that the agent has.
    """

    number: int
    families: tuple[Family, ...]
    options: MeasureOptions


class AbandonMeasuring(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End a measurement; what was measured so far is kept for the next one. There is no answer."""

    number: int


MAX_ECHO_BYTES = 2**22


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer is `Pong`, with the same bytes behind it as are behind this: `MAX_ECHO_BYTES` at most."""

    sent_s: float


# --- from an agent


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer to `Hello` and `Inquiry`."""

    inventory: Inventory


class ConnectionRefused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The agent closes the connection."""

    error: SentError


class DeviceStarted(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The process of a device is there: the server is to connect to it, with this ``token`` (`handing_over`)."""

    opening: int
    token: bytes


class DeviceEnded(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A device cannot be opened, or it is lost."""

    opening: int
    event: FailedEvent | LostEvent


class ModelState(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """How many bytes there are of each part of a model; ``is_whole`` once all are there and have the digest.

    ``error``: the model cannot be kept.
    """

    digest: str
    sizes: Sequence[Annotated[int, msgspec.Meta(ge=0)]]
    is_whole: bool
    error: SentError | None = None


class DevicesShared(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The devices that this server has open beside others, and how many servers that are; sent when it changes."""

    servers: Mapping[str, SharedBy]


class Measuring(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A line about a measurement that goes on, for people."""

    number: int
    line: str


class Measured(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The profiles, as JSON, are behind this, unless there is an ``error``."""

    number: int
    error: SentError | None = None


class Beat(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The ``memory`` of the agent's host, sent each second, as one of its signs of life."""

    memory: HostMemory


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer to a `Ping`, with its ``sent_s``."""

    sent_s: float


ToAgent = (
    Hello
    | Inquiry
    | OpenDevice
    | AbandonDevice
    | OfferModel
    | ModelPiece
    | WithdrawModel
    | MeasureDevices
    | AbandonMeasuring
    | Ping
)
FromAgent = (
    Welcome
    | ConnectionRefused
    | DeviceStarted
    | DeviceEnded
    | ModelState
    | DevicesShared
    | Measuring
    | Measured
    | Beat
    | Pong
)

MAX_BEHIND_BYTES: Mapping[type, int] = {
    OpenDevice: ARTEFACT.max_bytes,
    RunCommand: MAX_TENSOR_BYTES,
    RanEvent: MAX_TENSOR_BYTES,
    LeftEvent: MAX_TENSOR_BYTES,
    ModelPiece: PIECE_BYTES,
    Measured: ARTEFACT.max_bytes,
    Ping: MAX_ECHO_BYTES,
    Pong: MAX_ECHO_BYTES,
}
"""The most bytes behind each kind of message; others have none. Frames that are received in one piece may have more."""

FIRST_TO_AGENT: "msgspec.msgpack.Decoder[Hello | Inquiry]" = msgspec.msgpack.Decoder(Hello | Inquiry)
TO_AGENT: "msgspec.msgpack.Decoder[ToAgent]" = msgspec.msgpack.Decoder(ToAgent, dec_hook=decoded)
FROM_AGENT: "msgspec.msgpack.Decoder[FromAgent]" = msgspec.msgpack.Decoder(FromAgent, dec_hook=decoded)
EMULATED: "msgspec.msgpack.Decoder[EmulatedSpec]" = msgspec.msgpack.Decoder(EmulatedSpec, dec_hook=decoded)
"""The bytes behind `OpenDevice`."""
