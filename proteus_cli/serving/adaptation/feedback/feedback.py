"""Takes the labels that clients tell of their requests, each once."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from proteus_cli.errors import BadRequest, Conflict
from proteus_cli.serving.adaptation.feedback.documents import (
    MAX_PROBLEMS,
    FeedbackBatch,
    FeedbackItem,
    FeedbackProblem,
    FeedbackStatus,
    FeedbackTaken,
    Label,
)
from proteus_cli.serving.adaptation.feedback.live_accuracies import LiveAccuracies
from proteus_cli.serving.json_bodies import decoded
from proteus_cli.serving.requests.answers.answer_log import AnswerLog, KeptAnswer
from proteus_cli.serving.requests.data_plane import DataPlane

LONGEST_BODY = 2**20
ROWS_AT_ONCE = 100
"""They take a millisecond."""


class Feedback:
    """Compares labels with answers, for the ``accuracies`` of variants, and for versions that are rolled out.

    Where the data plane keeps no answers, no feedback is wanted.
    """

    def __init__(self, plane: DataPlane, accuracies: LiveAccuracies) -> None:
        self._plane, self._accuracies = plane, accuracies

    async def from_client(self, body: bytes | bytearray) -> FeedbackTaken:
        """Take a batch of feedback. Raises `RequestError`; then nothing of it has counted."""
        answers = self._require_wanted()
        batch = decoded(body, FeedbackBatch, LONGEST_BODY, "feedback")
        ends, problems, rows = Counter[str](), list[FeedbackProblem](), 0
        for place, item in enumerate(batch.feedback):
            rows += _rows(item)
            if rows >= ROWS_AT_ONCE:
                await asyncio.sleep(0)  # others go first
                rows = 0
            try:
                ends[self._take(item, answers)] += 1
            except BadRequest as error:
                ends["wrong"] += 1
                problems.append(FeedbackProblem(place, error.message))
        return FeedbackTaken(
            ends["accepted"], ends["unknown"], ends["repeated"], ends["wrong"], problems[:MAX_PROBLEMS]
        )

    def status(self) -> FeedbackStatus:
        """What feedback has told of each family. Raises `Conflict` where none is taken."""
        answers = self._require_wanted()
        families = self._plane.families.by_name.items()
        found = {family: self._accuracies.of_family(family, of.variants) for family, of in families}
        return FeedbackStatus(len(answers), answers.keep_s, found)

    # --- one item

    def _take(self, item: FeedbackItem, answers: AnswerLog) -> str:
        """What became of it. Raises `BadRequest` where it is wrong; then it may come again."""
        if item.model not in self._plane.families.by_name:
            raise BadRequest(f"no model `{item.model}`")
        if (item.label is None) == (item.score is None):
            raise BadRequest("feedback has a `label` or a `score`")
        try:
            answer = answers.peek(item.model, item.id)
        except KeyError:
            return "unknown"
        if answer is None:
            return "repeated"
        scores = self._scores(item, answer)
        answers.take(item.model, item.id)
        if self._plane.samples is not None and item.label is not None:
            self._plane.samples.told(item.model, item.id, self._numbers(item, answer))
        self._accuracies.count(answer, scores)
        if (arms := self._plane.arms.get(item.model)) is not None and answer.is_plain and scores:
            label = self._numbers(item, answer)[0] if item.label is not None and answer.rows == 1 else None
            arms.labelled(answer.key, answer.mark, label, sum(scores) / len(scores))
        return "accepted"

    def _scores(self, item: FeedbackItem, answer: KeptAnswer) -> list[float]:
        """By row, how right the answer was; of rows without a class, nothing."""
        if item.score is not None:
            scores = item.score if isinstance(item.score, list) else [item.score]
            _require_as_many(scores, answer.rows)
            return scores
        pairs = zip(answer.classes, self._numbers(item, answer), strict=True)
        return [float(found == number) for found, number in pairs if found is not None]

    def _numbers(self, item: FeedbackItem, answer: KeptAnswer) -> list[int]:
        """The classes that an item names, by row of its request. Raises `BadRequest`."""
        labels = item.label if isinstance(item.label, list) else [item.label]
        _require_as_many(labels, answer.rows)
        if not answer.classes:
            raise BadRequest(f"answers of `{item.model}` are no classes: send a `score`")
        names = self._plane.families.by_name[item.model].labels
        return [_number(label, names, answer.class_count, item.model) for label in labels if label is not None]

    def _require_wanted(self) -> AnswerLog:
        if self._plane.answers is None:
            raise Conflict("no answers are kept for feedback: start the server with `--feedback 10min`")
        return self._plane.answers


def _rows(item: FeedbackItem) -> int:
    """How many rows it tells something of."""
    told = item.label if item.score is None else item.score
    return len(told) if isinstance(told, list) else 1


def _require_as_many(values: Sequence[object], rows: int) -> None:
    if len(values) != rows:
        raise BadRequest(f"the request had {rows} rows; there is feedback of {len(values)}")


def _number(label: Label, names: Sequence[str], count: int, family: str) -> int:
    """The number of a class, of so many. Raises `BadRequest`."""
    if isinstance(label, int):
        if 0 <= label < count:
            return label
    elif label in names:
        return names.index(label)
    raise BadRequest(f"`{family}` has no class `{str(label)[:100]}`")
