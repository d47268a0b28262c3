"""Feedback: labels of requests that were answered, by ``POST /v2/proteus/feedback``, and what follows from them.

Each label is compared with what a variant answered, which the data plane keeps for a while
(`serving/requests/answers/answer_log.py`). `feedback.py` takes labels. `live_accuracies.py` has plans count on them.
Where a variant by itself is less accurate than its profile says, by more than chance
(`control/alarms.py`), plans count on its present accuracy. Once it is as it was, they count on the
profile again. Answers of cascades, and answers that were cut short, are compared with their promises, and change no
plan.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, TypeVar

from msgspec import Meta, Struct

from proteus_cli.control.alarms import LiveAccuracy
from proteus_cli.domain.base import Count, Fraction
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import LiveAccuracyRecord
from proteus_cli.errors import BadRequest, Conflict, ProteusError
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.plan_inputs import PlanSource, ProfileStore
from proteus_cli.serving.json_bodies import decoded
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.answers.answer_log import AnswerLog, KeptAnswer
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.units import format_percent

MAX_ITEMS = 10_000
MAX_PROBLEMS = 100
"""The most problems that an answer names; it has the number of all."""

Label = int | str
ToldT = TypeVar("ToldT")
Score = Annotated[float, Meta(ge=0, le=1)]


class FeedbackItem(Struct, frozen=True, forbid_unknown_fields=True):
    """Feedback on the request with an `id` to a family, the `model`; a list has one entry for each row.

    A `label` is the right class, by its number or name. A `score` says how right the answer was, from 0 to 1.
    """

    model: str
    id: str
    label: Label | Annotated[list[Label], Meta(min_length=1)] | None = None
    score: Score | Annotated[list[Score], Meta(min_length=1)] | None = None


class FeedbackBatch(Struct, frozen=True, forbid_unknown_fields=True):
    """Feedback on requests."""

    feedback: Annotated[list[FeedbackItem], Meta(max_length=MAX_ITEMS)]


class FeedbackProblem(Struct, frozen=True):
    """Why the item at a `place`, from 0, was not counted."""

    place: Count
    error: str


class FeedbackTaken(Struct, frozen=True):
    """The fate of the items. Each is counted once, in one field.

    `unknown`: no answer with this id is kept, or any more. `repeated`: the request had feedback
    before. `wrong`: they do not fit their request; `problems` names the first of them, 100 at most.
    """

    accepted: Count
    unknown: Count
    repeated: Count
    wrong: Count
    problems: Sequence[FeedbackProblem]


class VariantFeedback(Struct, frozen=True):
    """Labelled `rows` of a variant since the start, and the mean accuracy that was `promised` for them.

    `accuracy` is over the last labelled rows; its 95 % confidence interval is from `low` to `high`. `is_lower`: it is
    less than promised, by more than chance.
    """

    rows: Count
    accuracy: Fraction
    low: Fraction
    high: Fraction
    promised: Fraction
    is_lower: bool


class FamilyFeedback(Struct, frozen=True):
    """Labelled answers of a family, by variant. `plain` ones are whole, by no cascade; `staged` has all others.

    `planned` has the accuracies that replace the profiled ones in plans.
    """

    plain: Mapping[str, VariantFeedback]
    staged: Mapping[str, VariantFeedback]
    planned: Mapping[str, Fraction]


class FeedbackStatus(Struct, frozen=True):
    """The known accuracy of answers. `kept` answers wait for feedback, or had it. Each is kept for `keep_s`."""

    kept: Count
    keep_s: float
    families: Mapping[str, FamilyFeedback]


log = logging.getLogger("proteus.feedback")

LONGEST_BODY = 2**20

ROWS_AT_ONCE = 100
"""They take a millisecond."""

PAUSE_S = 10.0
"""Between two changes of what plans count on, however much feedback comes."""

NOTABLE_CHANGE = 0.01
"""The smallest change of a live accuracy that plans count on: two measured accuracies may differ as much."""


class Feedback:
    """Compares labels with answers: for the accuracies of variants, and for versions that are rolled out.

    ``plain`` has the accuracies of whole answers of one variant, ``staged`` those by cascades, and those cut short.
    If the data plane keeps no answers, no feedback is wanted, and no recorded accuracy counts. ``is_recording``: the
    accuracies that plans count on are written to the profiles of the workspace, for other planners.
    """

    def __init__(
        self,
        plane: DataPlane,
        profiles: ProfileStore,
        control_loop: ControlLoop,
        source: PlanSource,
        *,
        is_recording: bool = False,
    ) -> None:
        self._plane, self._profiles, self._is_recording = plane, profiles, is_recording
        self._control_loop, self._source = control_loop, source
        recorded = profiles.recorded if plane.answers is not None else {}  # it counts until labels say otherwise
        self.plain = {key: LiveAccuracy.of_record(each.accuracy, each.rows) for key, each in recorded.items()}
        self.staged: dict[VariantKey, LiveAccuracy] = {}
        self._changed = asyncio.Event()

    def status(self) -> FeedbackStatus:
        """The feedback on each family. Raises `Conflict` where none is taken."""
        answers, planned = self._require_wanted(), self._profiles.live_accuracy
        families = {
            name: FamilyFeedback(
                _told(self.plain, name), _told(self.staged, name),
                {key.variant: planned[key] for key in planned if key.family == name and key.variant in of.variants},
            )
            for name, of in self._plane.families.by_name.items()
        }  # fmt: skip
        return FeedbackStatus(len(answers), answers.keep_s, families)

    def forget(self, keys: Iterable[VariantKey]) -> None:
        """Forget variants that are gone for good; one that has such a name later is another."""
        for key in keys:
            self.plain.pop(key, None)
            self.staged.pop(key, None)

    # --- labels

    async def from_client(self, body: bytes | bytearray) -> FeedbackTaken:
        """Take a batch of feedback. Raises `RequestError`, before any item has counted."""
        answers = self._require_wanted()
        batch = decoded(body, FeedbackBatch, LONGEST_BODY, "feedback")
        ends, problems, rows = Counter[str](), list[FeedbackProblem](), 0
        for place, item in enumerate(batch.feedback):
            told = item.label if item.score is None else item.score
            rows += len(told) if isinstance(told, list) else 1
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

    def _take(self, item: FeedbackItem, answers: AnswerLog) -> str:
        """The fate of an item. Raises `BadRequest` where it is wrong; then it may come again."""
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
        numbers: list[int] = []
        if item.score is not None:
            scores = _one_each(item.score, answer.rows)
        else:
            numbers = self._numbers(item, answer)
            pairs = zip(answer.classes, numbers, strict=True)
            scores = [float(found == number) for found, number in pairs if found is not None]
        answers.take(item.model, item.id)
        if self._plane.samples is not None and numbers:
            self._plane.samples.told(item.model, item.id, numbers)
        self._count(answer, scores)
        if (arms := self._plane.arms.get(item.model)) is not None and answer.is_plain and scores:
            label = numbers[0] if len(numbers) == 1 else None
            arms.labelled(answer.key, answer.mark, label, sum(scores) / len(scores))
        return "accepted"

    def _numbers(self, item: FeedbackItem, answer: KeptAnswer) -> list[int]:
        """The classes that an item names, by row of its request. Raises `BadRequest`."""
        assert item.label is not None  # noqa: S101 - `_take` has looked
        labels: list[Label] = _one_each(item.label, answer.rows)
        if not answer.classes:
            raise BadRequest(f"answers of `{item.model}` are no classes: send a `score`")
        names, found = self._plane.families.by_name[item.model].labels, list[int]()
        for label in labels:
            number = names.index(label) if label in names else label
            if not isinstance(number, int) or not 0 <= number < answer.class_count:
                raise BadRequest(f"`{item.model}` has no class `{str(label)[:100]}`")
            found.append(number)
        return found

    def _require_wanted(self) -> AnswerLog:
        if self._plane.answers is None:
            raise Conflict("no answers are kept for feedback: start the server with `--feedback 10min`")
        return self._plane.answers

    # --- accuracies

    def _count(self, answer: KeptAnswer, scores: Sequence[float]) -> None:
        """There is a label of each row of an answer: ``scores`` say how right it was."""
        key, promised = answer.key, answer.accuracy
        kind = self.plain if answer.is_plain else self.staged
        live = kind.setdefault(key, LiveAccuracy())
        if answer.is_plain:  # the profiles count, whatever plans count on now
            found = (profile.of(*key) for profile in self._profiles.alone.values())
            promised = next((measured.accuracy for measured in found if measured is not None), promised)
        for score in scores:
            if live.observe(score, promised):
                _log_change(key, live, promised, is_plain=answer.is_plain)
        if answer.is_plain and (live.is_lower or key in self._profiles.live_accuracy):
            self._changed.set()

    async def run(self) -> None:
        """Have plans count on live accuracies where these change, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            known = {each.key for profile in self._profiles.alone.values() for each in profile.variants}
            wanted = {key: live.recent for key, live in self.plain.items() if live.is_lower and key in known}
            before = dict(self._profiles.live_accuracy)
            if wanted.keys() == before.keys() and all(abs(wanted[k] - before[k]) <= NOTABLE_CHANGE for k in wanted):
                continue
            if self._is_recording:
                await self._record(wanted)
            self._profiles.use_accuracies(wanted)
            reason = "; ".join(_description(key, wanted, before) for key in sorted(wanted.keys() | before.keys()))
            log.warning("%s", reason)
            await self._control_loop.changed(reason, self._profiles, lambda plan: plan)
            await asyncio.sleep(PAUSE_S)

    async def _record(self, wanted: Mapping[VariantKey, float]) -> None:
        """Write these accuracies to the profiles. A failure is logged; the next change is written again."""
        time, records = datetime.now(UTC).isoformat(timespec="seconds"), dict[VariantKey, LiveAccuracyRecord]()
        for key, accuracy in wanted.items():
            live = self.plain[key]
            low, high = live.interval()
            accuracy = min(max(accuracy, 0.0), 1.0)  # noqa: PLW2901 - sums of floats are rounded
            records[key] = LiveAccuracyRecord(
                time, live.recent_rows, accuracy, max(0.0, min(low, accuracy)), min(1.0, max(high, accuracy))
            )
        for device in self._profiles.record_accuracies(records):
            try:
                await asyncio.to_thread(self._profiles.write, device, self._source)
            except ProteusError as error:
                log.error("can't write the profile of %s: %s", device, error.message)  # noqa: TRY400


def _one_each(told: ToldT | list[ToldT], rows: int) -> list[ToldT]:
    """The value of each row. Raises `BadRequest`."""
    values = told if isinstance(told, list) else [told]
    if len(values) != rows:
        raise BadRequest(f"the request had {rows} rows; there is feedback of {len(values)}")
    return values


def _told(found: Mapping[VariantKey, LiveAccuracy], family: str) -> dict[str, VariantFeedback]:
    return {
        key.variant: VariantFeedback(
            live.rows, live.recent, *live.interval(), live.promised / live.rows, is_lower=live.is_lower
        )
        for key, live in found.items()
        if key.family == family and live.rows
    }


def _description(key: VariantKey, wanted: Mapping[VariantKey, float], before: Mapping[VariantKey, float]) -> str:
    if key not in wanted:
        return f"{key.variant} is as accurate as profiled again"
    was = f", not {format_percent(before[key])}" if key in before else ""
    return f"{key.variant} has an accuracy of {format_percent(wanted[key])} by feedback{was}"


def _log_change(key: VariantKey, live: LiveAccuracy, promised: float, *, is_plain: bool) -> None:
    told = fields(family=key.family, variant=key.variant, rows=live.rows, accuracy=round(live.recent, 4))
    how = "answers" if is_plain else "answers by stages"
    if live.is_lower:
        text = "%s of %s are less accurate than promised (%s): %s over the last %d labelled rows"
        log.warning(
            text, how, key.variant, format_percent(promised), format_percent(live.recent), live.recent_rows,
            extra=told,
        )  # fmt: skip
    else:
        log.info("%s of %s are as accurate as promised again", how, key.variant, extra=told)
