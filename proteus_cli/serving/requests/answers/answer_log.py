"""The answers to requests with an id, kept for a while, so that labels can be compared with them.

Requests without an id leave no trace here; without feedback the log does not exist. Memory is bounded: the oldest go
first.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection

import msgspec
import numpy as np

from proteus_cli.backends.base import OutputArrays
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.serving.requests.in_flight import Answered, Observer, Result
from proteus_cli.serving.requests.query import Query

_SCORES_NDIM, _FEWEST_CLASSES = 2, 2


def classes_of(outputs: OutputArrays) -> tuple[int | None, ...]:
    """The class of each row, None where a score is NaN. Empty where the first output has no scores by class."""
    scores = outputs[0]
    if scores.ndim != _SCORES_NDIM or scores.shape[1] < _FEWEST_CLASSES or scores.dtype.kind not in "fiu":
        return ()
    found: list[int | None] = scores.argmax(axis=1).tolist()
    if scores.dtype.kind == "f":
        for row in np.flatnonzero(np.isnan(scores).any(axis=1)).tolist():
            found[row] = None
    return tuple(found)


def class_of(outputs: OutputArrays) -> int | None:
    """The class of the first row; None like in `classes_of`, and where there are no classes."""
    return next(iter(classes_of((outputs[0][:1],))), None)


MAX_KEPT_ROWS = 100_000
"""The most rows of all answers together; each has one at least."""
LONGEST_ID = 128
"""Characters; the answer to a request with a longer id is not kept."""
MAX_ROWS = 256
"""The most rows of a request whose answer is kept."""
FORGOTTEN_AT_ONCE = 100
"""The most old answers that are dropped at once, so that a request waits little after a pause."""


class RolloutMark(msgspec.Struct, gc=False):
    """A request in an arm of a version roll-out, whose identity is ``rollout``.

    ``shadow_class`` is what the new version has said of it when nobody saw it; None where it was not asked.
    """

    rollout: object
    shadow_class: int | None = None


class KeptAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer of a variant: its class by row, and the ``accuracy`` that was promised.

    A class is None where the scores hold NaN; ``classes`` is empty where the first output has no scores by class, else
    of ``class_count`` ones. It ``is_plain`` where the variant alone gave it, as a whole: by no cascade, and cut short
    by no deadline. It has a ``mark`` where the request was in an arm of a version roll-out.
    """

    key: VariantKey
    rows: int
    classes: tuple[int | None, ...]
    class_count: int
    accuracy: float
    is_plain: bool
    mark: RolloutMark | None


class AnswerLog:
    """Keeps answers for ``keep_s``. Where an id comes again, its last answer counts.

    ``superseded`` is told the family and id of each answer that counts from then on.
    """

    def __init__(
        self,
        keep_s: float,
        clock: Callable[[], float],
        superseded: Callable[[tuple[str, str]], None] | None = None,
    ) -> None:
        self.keep_s, self._clock, self._superseded = keep_s, clock, superseded
        self._kept = OrderedDict[tuple[str, str], _KeptRequest]()  # the oldest first
        self._rows = 0

    def __len__(self) -> int:
        return len(self._kept)

    def observers(self, query: Query, mark: RolloutMark | None = None) -> tuple[Observer, ...]:
        """Has the answer to a request kept, once it has gone out; none where its id is too long, or its rows many."""
        if query.id is None or len(query.id) > LONGEST_ID or query.rows > MAX_ROWS:
            return ()
        return (_Keeping(self, (query.family, query.id), mark),)

    def peek(self, family: str, request_id: str) -> KeptAnswer | None:
        """The answer to a request. Raises `KeyError` where none is kept; None where it was taken before."""
        now_s = self._clock()
        self._forget_old(now_s)
        entry = self._kept[family, request_id]
        if self._is_old(entry, now_s):
            raise KeyError(request_id)
        return entry.answer

    def take(self, family: str, request_id: str) -> None:
        """There is feedback of that answer, and none is taken again."""
        self._kept[family, request_id].answer = None

    def forget(self, families: Collection[str]) -> None:
        """Forget families that are gone: one that has such a name later is another."""
        for key in [key for key in self._kept if key[0] in families]:
            self._rows -= self._kept.pop(key).rows

    def keep(self, key: tuple[str, str], result: Answered, mark: RolloutMark | None) -> None:
        """Keep the answer to a request of that family and id."""
        if self._superseded is not None:
            self._superseded(key)
        now_s = self._clock()
        before = self._kept.pop(key, None)  # so that it is the newest
        self._rows += result.rows - (before.rows if before is not None else 0)
        self._kept[key] = _KeptRequest(now_s, result.rows, _kept(result, mark))
        self._forget_old(now_s)

    def _forget_old(self, now_s: float) -> None:
        """Forget old answers, a part at a time, and the oldest beyond the limit.

        Answers come in the order of their times.
        """
        forgotten = 0
        while self._kept:
            oldest = next(iter(self._kept.values()))
            is_due = self._is_old(oldest, now_s) and forgotten < FORGOTTEN_AT_ONCE
            if not is_due and self._rows <= MAX_KEPT_ROWS:
                return
            self._kept.popitem(last=False)
            self._rows -= oldest.rows
            forgotten += 1

    def _is_old(self, entry: "_KeptRequest", now_s: float) -> bool:
        return entry.at_s <= now_s - self.keep_s


class _Keeping(Observer):
    __slots__ = ("_key", "_log", "_mark")

    def __init__(self, log: AnswerLog, key: tuple[str, str], mark: RolloutMark | None) -> None:
        self._log, self._key, self._mark = log, key, mark

    def ended(self, result: Result | Exception) -> None:
        if isinstance(result, Answered):
            self._log.keep(self._key, result, self._mark)


class _KeptRequest(msgspec.Struct, gc=False):
    """The kept part of a request; without its ``answer`` once there was feedback."""

    at_s: float
    rows: int
    answer: KeptAnswer | None


def _kept(result: Answered, mark: RolloutMark | None) -> KeptAnswer:
    batch, scores = result.batch, result.outputs[0]
    classes = classes_of(result.outputs)
    count = scores.shape[1] if classes else 0
    return KeptAnswer(batch.hosted.key, result.rows, classes, count, batch.accuracy, batch.staged is None, mark)
