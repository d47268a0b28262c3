"""What the study and the process of a device send each other."""

import msgspec

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import Device
from proteus_cli.serving.devices.process.messages import SentError
from proteus_cli.studies.sharing.bench.slices import Ran, Workload


class Engine(msgspec.Struct, frozen=True):
    """A variant to load, from the file ``model``, for batches of these sizes."""

    key: VariantKey
    model: str
    batches: tuple[int, ...]


class Open(msgspec.Struct, frozen=True, tag=True):
    """The first message. Engines are built, if they must be, in the directory ``built``."""

    device: Device
    built: str
    slots: int
    engines: tuple[Engine, ...]
    stream_bytes: int


class RunSlice(msgspec.Struct, frozen=True, tag=True):
    """Run a workload in each slot. The slice begins at ``begin_s`` by `time.monotonic`, which all processes share."""

    workload: Workload
    begin_s: float
    length_s: float


class Opened(msgspec.Struct, frozen=True, tag=True):
    """All engines are loaded."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The batches of all slots."""

    ran: list[Ran]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Something failed in the process; it ends."""

    error: SentError


BenchCommand = Open | RunSlice
BenchEvent = Opened | Done | Failed
COMMANDS = msgspec.msgpack.Decoder(BenchCommand)
EVENTS = msgspec.msgpack.Decoder(BenchEvent)
