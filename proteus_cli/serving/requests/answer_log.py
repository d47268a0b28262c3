"""What was answered to requests with an id, kept for a while, so that labels can be compared with it.

Nothing is kept of requests without an id, nor where no feedback is wanted. Memory is bounded: the oldest go first.
"""

from collections.abc import Callable
from functools import partial

import msgspec
import numpy as np

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.serving.requests.in_flight import Answered, Result, ResultCallback
from proteus_cli.serving.requests.query import Query

MOST_ANSWERS = 100_000
LONGEST_ID = 128
"""Characters; the answer to a request with a longer id is not kept."""
MOST_ROWS = 256
"""Nor is that to a request of more rows."""
_CLASSES_NDIM = 2


class KeptAnswer(msgspec.Struct, frozen=True, gc=False):
    """The answer of a variant, at ``at_s``: its class by row, and the ``accuracy`` that was promised.

    A class is None where the scores hold NaN; ``classes`` is empty where the first output has no scores by class. It
    ``is_plain`` where the variant alone gave it, as a whole: by no cascade, and cut short by no deadline.
    """

    key: VariantKey
    rows: int
    classes: tuple[int | None, ...]
    accuracy: float
    is_plain: bool
    at_s: float


class AnswerLog:
    """Keeps answers for ``keep_s``. Where an id comes again, its last answer counts."""

    def __init__(self, keep_s: float, clock: Callable[[], float]) -> None:
        self.keep_s, self._clock = keep_s, clock
        self._kept: dict[tuple[str, str], tuple[float, KeptAnswer | None]] = {}  # None: there was feedback

    def __len__(self) -> int:
        return len(self._kept)

    def noting(self, query: Query, done: ResultCallback) -> ResultCallback:
        """Have the answer to a request kept, once it has gone out by ``done``."""
        if query.id is None or len(query.id) > LONGEST_ID or query.rows > MOST_ROWS:
            return done
        return partial(self._saw, (query.family, query.id), done)

    def peek(self, family: str, request_id: str) -> KeptAnswer | None:
        """The answer to a request. Raises `KeyError` where none is kept; None where it was taken before."""
        self._forget_old(self._clock())
        return self._kept[family, request_id][1]

    def take(self, family: str, request_id: str) -> None:
        """There is feedback of that answer, and none is taken again."""
        at_s, _ = self._kept[family, request_id]
        self._kept[family, request_id] = at_s, None

    def _saw(self, key: tuple[str, str], done: ResultCallback, result: Result) -> None:
        done(result)
        if not isinstance(result, Answered):
            return
        now_s = self._clock()
        self._forget_old(now_s)
        self._kept.pop(key, None)  # so that it is the newest
        self._kept[key] = now_s, _kept(result, now_s)

    def _forget_old(self, now_s: float) -> None:
        """Answers come in the order of their times."""
        while self._kept:
            oldest = next(iter(self._kept))
            if self._kept[oldest][0] > now_s - self.keep_s and len(self._kept) < MOST_ANSWERS:
                return
            del self._kept[oldest]


def _kept(result: Answered, now_s: float) -> KeptAnswer:
    batch = result.batch
    return KeptAnswer(batch.hosted.key, result.rows, _classes(result), batch.accuracy, batch.staged is None, now_s)


def _classes(result: Answered) -> tuple[int | None, ...]:
    """By row, as `proteus profile` counts them."""
    scores = result.outputs[0]
    if scores.ndim != _CLASSES_NDIM or scores.shape[1] < 2 or scores.dtype.kind not in "fiu":  # noqa: PLR2004
        return ()
    found: list[int | None] = scores.argmax(axis=1).tolist()
    if scores.dtype.kind == "f" and (unknown := np.isnan(scores).any(axis=1)).any():
        found = [None if is_unknown else each for each, is_unknown in zip(found, unknown.tolist(), strict=True)]
    return tuple(found)
