"""Which requests are captured, and what is kept of them."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log1p

import numpy as np

from proteus_cli.arrays import Singles
from proteus_cli.backends.base import OutputArrays
from proteus_cli.buffers import Buffer
from proteus_cli.serving.requests.answers.answer_log import LONGEST_ID, MAX_ROWS, classes_of
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, InFlightRequest, Observer, Result
from proteus_cli.serving.requests.samples.writer import LARGEST_BYTES, Captured, CapturedLabels, SampleWriter

MAX_IDS = 100_000
"""The most captured requests whose labels are waited for."""


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """Requests that were ``captured``, by family; those ``dropped``, by family and reason; and ``size_bytes`` on disk.

    The reasons: ``large``, ``busy`` where the memory for samples was full, also for labels, and ``disk``. Samples that
    the disk has lost were captured before.
    """

    captured: Mapping[str, int]
    dropped: Mapping[tuple[str, str], int]
    size_bytes: int


class SampleCapture:
    """Captures a ``share`` of all requests, each by chance alone, whatever it is; ``next_id`` is of the next one.

    ``confidence`` of the rows of an answer, by family. Only answered requests are kept.
    """

    def __init__(
        self,
        share: float,
        writer: SampleWriter,
        families: Mapping[str, ServedFamily],
        confidence: Callable[[str, OutputArrays], Singles],
        unix_clock: Callable[[], float],
        rng: np.random.Generator,
    ) -> None:
        self._share, self.writer, self._families = share, writer, families
        self._confidence, self._clock, self._rng = confidence, unix_clock, rng
        self._numbers = OrderedDict[tuple[str, str], int]()  # by family and id, the oldest first
        self._count = 0
        self.captured = Counter[str]()
        self.dropped = Counter[tuple[str, str]]()
        self.next_id = -1
        self._draw(0)

    def observers(self, request: InFlightRequest, client_id: str | None) -> tuple[Observer, ...]:
        """Observes an admitted request whose id is ``next_id`` or higher, if it is chosen; its tensors are read."""
        if request.id > self.next_id:  # the drawn one was refused, or a probe: each one after it has the same chance
            self._draw(request.id)
        if request.id != self.next_id:
            return ()
        self._draw(request.id + 1)
        size = sum(map(_size, request.inputs))
        reason = self._why_not(request, size)
        if reason is not None:
            self.dropped[request.family, reason] += 1
            return ()
        return (_Chosen(self, request, size, client_id),)

    def told(self, family: str, client_id: str, labels: Sequence[int | None]) -> None:
        """Feedback has told the labels of a request, which may have been captured."""
        number = self._numbers.pop((family, client_id), None)
        if number is None:
            return
        if self.writer.has_room(0):
            self.writer.put(CapturedLabels(family, number, tuple(labels)))
        else:
            self.dropped[family, "busy"] += 1

    def counts(self) -> "SampleCounts":
        """Since the start."""
        failed = self.writer.failed.copy().items()
        lost = {(family, "disk"): number for family, number in failed if family in self._families}
        return SampleCounts(self.captured, {**self.dropped, **lost}, self.writer.space.size_bytes)

    def superseded(self, key: tuple[str, str]) -> None:
        """A request with that family and id was answered: labels that are told from now on are not of one before."""
        self._numbers.pop(key, None)

    def forget(self, families: Collection[str]) -> None:
        """Forget families that are gone: one that has such a name later is another."""
        for counts in (self.captured, self.dropped):
            for key in [key for key in counts if (key[0] if isinstance(key, tuple) else key) in families]:
                del counts[key]
        for key in [key for key in self._numbers if key[0] in families]:
            del self._numbers[key]
        self.writer.forget(families)

    def _why_not(self, request: InFlightRequest, size: int) -> str | None:
        if size > LARGEST_BYTES or request.rows > MAX_ROWS:
            return "large"
        return None if self.writer.has_room(size) else "busy"

    def captured_answer(self, chosen: "_Chosen", result: Result | Exception) -> Captured | None:
        """The kept part of a chosen request; None where it was not answered, or its family is gone."""
        family, client_id = chosen.family, chosen.client_id
        served = self._families.get(family)
        if not isinstance(result, Answered) or served is None:
            return None
        number, self._count = self._count, self._count + 1
        known_id = client_id if client_id is not None and len(client_id) <= LONGEST_ID else None
        if known_id is not None:
            self._expect_label((family, known_id), number)
        self.captured[family] += 1
        return Captured(
            family, number, known_id, self._clock(), result.batch.hosted.variant, result.rows, chosen.inputs,
            chosen.size, served.signature.inputs, classes_of(result.outputs), self._confidence(family, result.outputs),
        )  # fmt: skip

    def _expect_label(self, key: tuple[str, str], number: int) -> None:
        self._numbers.pop(key, None)
        self._numbers[key] = number
        if len(self._numbers) > MAX_IDS:
            self._numbers.popitem(last=False)

    def _draw(self, first_id: int) -> None:
        """Choose the next request, from ``first_id`` on: the gap of a Bernoulli process."""
        gap = ceil(log1p(-self._rng.random()) / log1p(-self._share)) if self._share < 1 else 1
        self.next_id = first_id + max(gap, 1) - 1


class _Chosen(Observer):
    """A captured request. Memory is reserved for it until it is written, or has ended without an answer."""

    __slots__ = ("_samples", "client_id", "family", "inputs", "size")

    def __init__(self, samples: SampleCapture, request: InFlightRequest, size: int, client_id: str | None) -> None:
        self._samples = samples
        self.family, self.inputs, self.size, self.client_id = request.family, request.inputs, size, client_id
        samples.writer.reserve(size)

    def ended(self, result: Result | Exception) -> None:
        captured = self._samples.captured_answer(self, result)
        if captured is not None:
            self._samples.writer.put(captured)
        else:
            self.cancelled()

    def cancelled(self) -> None:
        self._samples.writer.release(self.size)


def _size(content: Buffer) -> int:
    return content.nbytes if isinstance(content, memoryview) else len(content)
