"""Feedback: labels of requests that were answered, by ``POST /v2/proteus/feedback``, and what follows from them.

Each label is compared with what a variant answered, which the data plane keeps for a while
(`serving/requests/answer_log.py`). Where a variant by itself is less accurate than its profile says, by more than
chance (`control/replanning/live_accuracy.py`), plans count on what it is now; once it is as it was, on the profile
again. Answers of cascades, and those that were cut short, are compared with what they promised, and change no plan.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from proteus_cli.control.replanning.live_accuracy import LiveAccuracy
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.profile.profile import LiveAccuracyRecord
from proteus_cli.errors import BadRequest, BodyTooLarge, Conflict, ProteusError
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.plan_source import PlanSource
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.adaptation.solver.process import SolverProcess
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.answer_log import AnswerLog, KeptAnswer
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.version_arms import VersionArms
from proteus_cli.units import format_percent

log = logging.getLogger("proteus.feedback")

LONGEST_BODY = 2**20
MOST_ITEMS = 10_000
ROWS_AT_ONCE = 100
"""They take a millisecond."""
MOST_PROBLEMS = 100
"""That an answer names; of more, their number."""

PAUSE_S = 10.0
"""Between two changes of what plans count on, however much feedback comes."""

NOTABLE_CHANGE = 0.01
"""Of a live accuracy that plans count on: as much as two measured accuracies may differ."""

Label = int | str
Score = Annotated[float, Meta(ge=0, le=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]


class FeedbackItem(Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of one request: the right class, or how right the answer was; of several rows, one for each."""

    model: Annotated[str, Meta(description="The family that was asked.")]
    id: Annotated[str, Meta(description="The `id` of the request.")]
    label: Annotated[
        Label | Annotated[list[Label], Meta(min_length=1)] | None, Meta(description="The class: its number or name.")
    ] = None
    score: Annotated[
        Score | Annotated[list[Score], Meta(min_length=1)] | None, Meta(description="From 0, wrong, to 1, right.")
    ] = None


class FeedbackBatch(Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of requests."""

    feedback: Annotated[list[FeedbackItem], Meta(max_length=MOST_ITEMS)]


class FeedbackProblem(Struct, frozen=True):
    """Why an item was not counted."""

    place: Annotated[int, Meta(ge=0, description="Of the item, from 0.")]
    error: str


class FeedbackTaken(Struct, frozen=True):
    """What became of the items: each is counted once, in one of these."""

    accepted: Count
    unknown: Annotated[Count, Meta(description="No answer is kept: it is too old, or there was none with this id.")]
    repeated: Annotated[Count, Meta(description="There was feedback of this request before.")]
    wrong: Annotated[Count, Meta(description="They do not fit their request.")]
    problems: Annotated[Sequence[FeedbackProblem], Meta(description=f"The first {MOST_PROBLEMS} of the wrong ones.")]


class VariantFeedback(Struct, frozen=True):
    """Labelled answers of a variant, beside what was promised."""

    rows: Annotated[Count, Meta(description="With a label, since the start.")]
    accuracy: Annotated[Fraction, Meta(description="Of the last labelled rows.")]
    low: Annotated[Fraction, Meta(description="The 95 % confidence interval of `accuracy` begins here.")]
    high: Annotated[Fraction, Meta(description="It ends here.")]
    promised: Annotated[Fraction, Meta(description="The mean of what was promised, since the start.")]
    is_lower: Annotated[bool, Meta(description="Less accurate than promised, by more than chance.")]


class FamilyFeedback(Struct, frozen=True):
    """Labelled answers of a family, by variant."""

    plain: Annotated[Mapping[str, VariantFeedback], Meta(description="Whole answers, by no cascade.")]
    staged: Annotated[Mapping[str, VariantFeedback], Meta(description="Answers of cascades, and those cut short.")]
    planned: Annotated[Mapping[str, Fraction], Meta(description="What plans count on in place of the profile.")]


class FeedbackStatus(Struct, frozen=True):
    """What is known of the accuracy of answers."""

    kept: Annotated[Count, Meta(description="Answers that wait for feedback, or had it.")]
    keep_s: Annotated[float, Meta(description="So long answers are kept.")]
    families: Mapping[str, FamilyFeedback]


class Feedback:
    """Takes labels, and has plans count on them. ``answers`` is None where no feedback is wanted.

    ``is_recording``: what plans count on is written to the profiles of the workspace, for those who plan next.
    ``arms``, by family, are told of labels, too: those of versions that are rolled out.
    """

    def __init__(
        self,
        answers: AnswerLog | None,
        plane: DataPlane,
        profiles: ProfileStore,
        control_loop: ControlLoop,
        source: PlanSource,
        solver: SolverProcess | None,
        *,
        is_recording: bool = False,
    ) -> None:
        self._is_recording = is_recording
        self._answers, self._plane, self._profiles = answers, plane, profiles
        self._control_loop, self._source, self._solver = control_loop, source, solver
        self.plain = {} if answers is None else _as_recorded(profiles)
        self.staged: dict[VariantKey, LiveAccuracy] = {}
        self._changed = asyncio.Event()
        self.arms: Mapping[str, VersionArms] = dict[str, VersionArms]()

    @property
    def is_wanted(self) -> bool:
        return self._answers is not None

    async def from_client(self, body: bytes | bytearray) -> FeedbackTaken:
        """Take a batch of feedback. Raises `RequestError`; then nothing of it has counted."""
        answers = self._require_wanted()
        if len(body) > LONGEST_BODY:
            raise BodyTooLarge(f"feedback has at most {LONGEST_BODY:,} bytes; got {len(body):,}")
        try:
            batch = msgspec.json.decode(body, type=FeedbackBatch)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(f"the body is no feedback: {error}") from None
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
            ends["accepted"], ends["unknown"], ends["repeated"], ends["wrong"], problems[:MOST_PROBLEMS]
        )

    def status(self) -> FeedbackStatus:
        answers = self._require_wanted()
        planned = self._profiles.live_accuracy
        return FeedbackStatus(
            len(answers),
            answers.keep_s,
            {
                family: FamilyFeedback(
                    _of(self.plain, family), _of(self.staged, family),
                    {key.variant: planned[key] for key in _keys(family, of.variants) if key in planned},
                )
                for family, of in self._plane.families.by_name.items()
            },
        )  # fmt: skip

    def forget(self, keys: Iterable[VariantKey]) -> None:
        """These variants are gone for good; one that has such a name later is another."""
        for key in keys:
            self.plain.pop(key, None)
            self.staged.pop(key, None)

    async def run(self) -> None:
        """Have plans count on live accuracies where these change, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            known = {each.key for profile in self._profiles.alone.values() for each in profile.variants}
            wanted = {key: live.recent for key, live in self.plain.items() if live.is_lower and key in known}
            before = dict(self._profiles.live_accuracy)
            if _differs(wanted, before):
                await self._count_on(wanted, before)
                await asyncio.sleep(PAUSE_S)

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
        self._count(answer, scores)
        is_of_arm = answer.is_plain and not answer.is_of_version
        if (arms := self.arms.get(item.model)) is not None and is_of_arm and scores:
            label = self._numbers(item, answer)[0] if item.label is not None and answer.rows == 1 else None
            arms.labelled(answer.key, item.id, label, sum(scores) / len(scores))
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

    def _count(self, answer: KeptAnswer, scores: Sequence[float]) -> None:
        key = answer.key
        kind = self.plain if answer.is_plain else self.staged
        live = kind.setdefault(key, LiveAccuracy())
        promised = answer.accuracy if not answer.is_plain else self._profiled(key, answer.accuracy)
        for score in scores:
            if live.saw(score, promised):
                _log_change(key, live, promised, is_plain=answer.is_plain)
        if answer.is_plain and (live.is_lower or key in self._profiles.live_accuracy):
            self._changed.set()

    def _profiled(self, key: VariantKey, otherwise: float) -> float:
        """What the profiles say of a variant, whatever plans count on now."""
        found = (profile.of(*key) for profile in self._profiles.alone.values())
        return next((measured.accuracy for measured in found if measured is not None), otherwise)

    def _require_wanted(self) -> AnswerLog:
        if self._answers is None:
            raise Conflict("no answers are kept for feedback: start the server with `--feedback 10min`")
        return self._answers

    # --- plans

    async def _count_on(self, wanted: Mapping[VariantKey, float], before: Mapping[VariantKey, float]) -> None:
        """Put the plan in force anew with these accuracies, and ask for another one."""
        if self._is_recording:
            await self._record(wanted)
        self._profiles.use_accuracies(wanted)
        self._plane.families.use(self._profiles.values())
        controller = self._plane.controller
        if self._solver is not None:
            self._solver.use(self._source.replanner(controller.plan, self._profiles))
        reason = "; ".join(_description(key, wanted, before) for key in sorted(wanted.keys() | before.keys()))
        log.warning("%s", reason)
        try:
            await self._control_loop.rerate(self._plan_with_inputs, reason)
        except ProteusError as error:
            log.error("kept the accuracies: %s", error.message)  # noqa: TRY400
        controller.replanning.ask(reason, self._plane.clock())

    def _plan_with_inputs(self) -> Plan:
        """The plan in force, made from profiles as they are on the disk now, where these were written."""
        plan = self._plane.controller.plan
        if not self._is_recording:
            return plan
        return msgspec.structs.replace(plan, inputs={**plan.inputs, **self._source.inputs()})

    async def _record(self, wanted: Mapping[VariantKey, float]) -> None:
        """Write these accuracies to the profiles. A failure is logged; the next change is written again."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        records = {key: _record_of(self.plain[key], accuracy, time) for key, accuracy in wanted.items()}
        for device in self._profiles.record_accuracies(records):
            try:
                await asyncio.to_thread(self._profiles.write, device, self._source)
            except ProteusError as error:
                log.error("can't write the profile of %s: %s", device, error.message)  # noqa: TRY400


def _as_recorded(profiles: ProfileStore) -> dict[VariantKey, LiveAccuracy]:
    """Accuracies that an earlier server has recorded count until labels say otherwise."""
    return {key: LiveAccuracy.of_record(each.accuracy, each.rows) for key, each in profiles.recorded.items()}


def _record_of(live: LiveAccuracy, accuracy: float, time: str) -> LiveAccuracyRecord:
    """Whatever is rounded, the accuracy is a fraction, and within its confidence interval."""
    accuracy, (low, high) = min(max(accuracy, 0.0), 1.0), live.interval()
    return LiveAccuracyRecord(
        time, live.recent_rows, accuracy, max(0.0, min(low, accuracy)), min(1.0, max(high, accuracy))
    )


def _keys(family: str, variants: Iterable[str]) -> Iterator[VariantKey]:
    return (VariantKey(family, variant) for variant in variants)


def _of(found: Mapping[VariantKey, LiveAccuracy], family: str) -> dict[str, VariantFeedback]:
    return {
        key.variant: VariantFeedback(
            live.rows, live.recent, *live.interval(), live.promised / live.rows, is_lower=live.is_lower
        )
        for key, live in found.items()
        if key.family == family and live.rows
    }


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


def _differs(wanted: Mapping[VariantKey, float], before: Mapping[VariantKey, float]) -> bool:
    return wanted.keys() != before.keys() or any(abs(wanted[key] - before[key]) > NOTABLE_CHANGE for key in wanted)


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
