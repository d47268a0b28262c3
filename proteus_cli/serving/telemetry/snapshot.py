"""What a server is like lately, for those who look at it: values that `history` makes and the terminal shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct


class ServerEventKind(StrEnum):
    PLAN = "plan"
    DEVICE = "device"


class ServerEvent(Struct, frozen=True):
    """A change of plan or of a device: seconds since the server was ready, and what happened, for people."""

    at_s: float
    kind: ServerEventKind
    text: str


class Flow(NamedTuple):
    """What a placement is sent by the plan, and what it has answered lately."""

    device: str
    family: str
    variant: str
    accuracy: float
    planned_qps: float
    answered_qps: float


@dataclass(frozen=True, slots=True)
class FamilySnapshot:
    """A family lately. Demand, throughput and goodput count rows, ``violations`` is a fraction of requests.

    None: nothing was answered, or ended, from which it could be known.
    """

    slo_s: float
    best_accuracy: float | None
    demand_qps: float
    throughput_qps: float
    goodput_qps: float
    violations: float | None
    accuracy: float | None
    p99_s: float | None
    waiting: int

    @property
    def relative_accuracy(self) -> float | None:
        """Of the best variant's accuracy."""
        return None if self.accuracy is None or not self.best_accuracy else self.accuracy / self.best_accuracy


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """A device lately: what it hosts, the part of time in which batches ran, their mean rows (None: none ran)."""

    variants: tuple[str, ...]
    load: float
    mean_batch: float | None
    breaker: str = "closed"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The server at its last sample; ``events`` are the last ones, oldest first."""

    at_s: float
    state: str
    policy: str
    is_emulated: bool
    inside: int
    families: Mapping[str, FamilySnapshot]
    devices: Mapping[str, DeviceSnapshot]
    flows: Sequence[Flow]
    events: Sequence[ServerEvent]
