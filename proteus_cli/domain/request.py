"""One query on its way through the system, and how it ended."""

import math
from enum import StrEnum
from typing import ClassVar

import msgspec


class Outcome(StrEnum):
    """Every request ends in exactly one."""

    SERVED = "served"  # answered by its deadline
    LATE = "late"  # answered after its deadline
    DROPPED = "dropped"  # given up in the queue
    REJECTED = "rejected"  # refused at the door
    FAILED = "failed"  # engine or transport error


MAX_RUNS = 2
"""A request that ran on this number of devices when they were lost may be the cause. It is not run again."""

USUAL_LEVEL = 2
LOWEST_LEVEL = 8


MAX_CONFIDENCE = 3e38
"""Confidences are floats of 32 bits."""

ANY_VERSION = "1"
"""The version that stands for any variant of a family."""


class AskedVersion(msgspec.Struct, frozen=True, gc=False):
    """The version ``name`` of a family, which a client asks for: one of ``variants`` is to answer."""

    name: str
    variants: frozenset[str]

    def __str__(self) -> str:
        if self.variants == {self.name}:
            return f"version `{self.name}`"
        return f"version `{self.name}` ({', '.join(sorted(self.variants))})"


class Bounds(msgspec.Struct, frozen=True, gc=False):
    """Bounds of a request on its answer besides ``min_accuracy``; the defaults are no bounds.

    ``min_confidence``: a first stage is sure of a row only where its confidence is at least that, and the threshold.
    ``min_expected_accuracy``: the least expected accuracy of the answer; a cascade counts as its composition.
    ``max_energy_j``: the answer takes no more energy, whatever its batches. ``version``: none but its variants may
    answer, in each stage of a cascade. It ``is_canary`` where the server wants the answer of a version that is being
    rolled out.
    """

    min_confidence: float = -math.inf
    min_expected_accuracy: float = 0.0
    max_energy_j: float = math.inf
    is_canary: bool = False
    version: AskedVersion | None = None

    @property
    def needs_confidence(self) -> bool:
        """Whether the request asks how confident variants are of their answers."""
        return self.min_confidence > -math.inf

    @property
    def is_energy_limited(self) -> bool:
        return self.max_energy_j < math.inf

    def accepts(self, variant: str) -> bool:
        """A variant is of the version that is asked for."""
        return self.version is None or variant in self.version.variants

    def without(self, energy_j: float) -> "Bounds | None":
        """The bounds of a second stage after the first took ``energy_j``: the energy left, the version and the arm."""
        if not self.is_energy_limited and self.version is None and not self.is_canary:
            return None
        left_j = self.max_energy_j - energy_j if self.is_energy_limited else math.inf
        return Bounds(max_energy_j=left_j, is_canary=self.is_canary, version=self.version)


ANY_CANARY = Bounds(is_canary=True)
"""Bounds of canaries without other wishes."""


class Request(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A query as decisions see it; times in seconds on the driver's clock.

    ``rows`` is how many rows it brings to a batch. A driver may add what it needs in a subclass.
    ``slo_s`` is how long it may be made to wait for company, where its deadline allows more than its SLO.
    ``priority``: 1 is the highest and larger is lower; 0 means that it asks for none, which is the same as 2.
    ``min_accuracy``: only variants that are at least so accurate may answer. ``bounds``: what else it asks for; most
    requests have none.
    """

    id: int
    family: str
    arrival_s: float
    deadline_s: float
    rows: int = 1
    slo_s: float = math.inf
    priority: int = 0
    min_accuracy: float = 0.0
    bounds: Bounds | None = None

    is_deferred: ClassVar[bool] = False
    """It waits for the second stage of a cascade; else it is a *newcomer*."""
    is_background: ClassVar[bool] = False
    """No client waits for it: a more accurate variant is asked about an answer that has gone out."""

    @property
    def asks_for_accuracy(self) -> bool:
        """Whether the request has a least accuracy, of variants or of the answer."""
        return self.min_accuracy > 0 or (self.bounds is not None and self.bounds.min_expected_accuracy > 0)

    @property
    def level(self) -> int:
        """The priority as a level from 1, the highest, to 8, which all lower ones share."""
        return min(max(self.priority, 1), LOWEST_LEVEL) if self.priority else USUAL_LEVEL


class DeferredRequest(Request, frozen=True, eq=False):
    """The rows of a request that the first stage of a cascade defers, with the id, times and priority of the request.

    Its ``min_accuracy`` is at least the accuracy of the second variant. The driver has the first answer: where the
    deferred request is dropped, that answer is sent.
    """

    is_deferred: ClassVar[bool] = True


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """The record of one request: ``arrival_s`` as scheduled, relative to the start of the run.

    ``latency_s`` and ``accuracy`` are None unless it was answered; ``batch`` is the rows of the batch that answered it,
    where known. With cascades, ``accuracy`` is the expected one of such an answer. A request ``is_deferred`` where the
    first stage was not sure of it; ``is_fallback`` where the first answer was sent all the same. ``is_correct``:
    whether the answer was right; None if unknown. ``is_cut``: a multi-exit model gave an answer before its own exit,
    for want of time.
    """

    family: str
    arrival_s: float
    outcome: Outcome
    latency_s: float | None = None
    accuracy: float | None = None
    variant: str | None = None
    device: str | None = None
    batch: int | None = None
    is_deferred: bool = False
    is_fallback: bool = False
    is_correct: bool | None = None
    is_cut: bool = False
