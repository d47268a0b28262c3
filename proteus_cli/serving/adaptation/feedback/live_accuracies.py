"""What labels tell of the accuracy of variants, and plans that count on it."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from proteus_cli.control.alarms import LiveAccuracy
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import LiveAccuracyRecord
from proteus_cli.errors import ProteusError
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.adaptation.feedback.documents import FamilyFeedback, VariantFeedback
from proteus_cli.serving.adaptation.plan_source import PlanSource
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.answers.answer_log import KeptAnswer
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.units import format_percent

log = logging.getLogger("proteus.feedback")

PAUSE_S = 10.0
"""Between two changes of what plans count on, however much feedback comes."""

NOTABLE_CHANGE = 0.01
"""Of a live accuracy that plans count on: as much as two measured accuracies may differ."""


class LiveAccuracies:
    """How accurate answers of variants are: ``plain`` ones, and ``staged`` ones: of cascades, and those cut short.

    Without ``takes_labels`` nothing is known of any, whatever an earlier server has recorded. ``is_recording``: what
    plans count on is written to the profiles of the workspace, for those who plan next.
    """

    def __init__(
        self,
        plane: DataPlane,
        profiles: ProfileStore,
        control_loop: ControlLoop,
        source: PlanSource,
        *,
        takes_labels: bool,
        is_recording: bool = False,
    ) -> None:
        self._plane, self._profiles, self._is_recording = plane, profiles, is_recording
        self._control_loop, self._source = control_loop, source
        self.plain = _as_recorded(profiles) if takes_labels else {}
        self.staged: dict[VariantKey, LiveAccuracy] = {}
        self._changed = asyncio.Event()

    def of_family(self, family: str, variants: Iterable[str]) -> FamilyFeedback:
        """What feedback has told of a family, and of which of its variants plans count on that."""
        planned = self._profiles.live_accuracy
        return FamilyFeedback(
            _of(self.plain, family), _of(self.staged, family),
            {key.variant: planned[key] for key in _keys(family, variants) if key in planned},
        )  # fmt: skip

    def forget(self, keys: Iterable[VariantKey]) -> None:
        """Forget variants that are gone for good; one that has such a name later is another."""
        for key in keys:
            self.plain.pop(key, None)
            self.staged.pop(key, None)

    def count(self, answer: KeptAnswer, scores: Sequence[float]) -> None:
        """There is a label of each row of an answer: ``scores`` say how right it was."""
        key = answer.key
        kind = self.plain if answer.is_plain else self.staged
        live = kind.setdefault(key, LiveAccuracy())
        promised = answer.accuracy if not answer.is_plain else self._profiled(key, answer.accuracy)
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
            if _differs(wanted, before):
                await self._count_on(wanted, before)
                await asyncio.sleep(PAUSE_S)

    def _profiled(self, key: VariantKey, otherwise: float) -> float:
        """What the profiles say of a variant, whatever plans count on now."""
        found = (profile.of(*key) for profile in self._profiles.alone.values())
        return next((measured.accuracy for measured in found if measured is not None), otherwise)

    async def _count_on(self, wanted: Mapping[VariantKey, float], before: Mapping[VariantKey, float]) -> None:
        """Put the plan in force anew with these accuracies, and ask for another one."""
        if self._is_recording:
            await self._record(wanted)
        self._profiles.use_accuracies(wanted)
        reason = "; ".join(_description(key, wanted, before) for key in sorted(wanted.keys() | before.keys()))
        log.warning("%s", reason)
        await self._control_loop.changed(reason, self._profiles, self._plan)

    def _plan(self) -> Plan:
        """The plan in force, made from the profiles that are written."""
        plan = self._plane.controller.plan
        return self._control_loop.planner.of_now(plan) if self._is_recording else plan

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
