"""A version roll-out as a machine that is told the time: which share of the queries the new version answers now.

It goes through its steps one by one, or ends::

    measuring → shadow → canary 1 → … → canary n → promoting → full → done
        └──────────┴─────────┴─── aborted, rolled back, failed ──┴───┘

Its driver tells it four things: the new version is ready (measured and loaded), the catalog names it, it cannot go on,
or what a person says. What the guard is to know, the driver tells `guard`. Each call returns the `WantedStep` from now
on; `decide` is to be called every second or so. A `WantedStep` that is returned twice is harmless.

**Invariants.** The share of the new version grows only with a step, and a step is left only where the guard passes,
with ``is_auto``, or a person says so. After the end nothing is asked of the new version, unless it is done. There is
one end.

**When a step is passed.** A canary step is passed once the new version has answered `MIN_QUERIES` in it and all terms
pass. The shadow is passed once so many were compared, and all terms pass that it can tell of. As nobody sees its
answers, it is passed also once `MAX_SHADOWED` were compared, or after `LONGEST_SHADOW_S`, if the guard does not fail.
The first canary step goes on from what was learned then, and its ``note`` says that the shadow is undecided. A canary
step that was not passed after ``most_queries`` ends the roll-out: the version may be good, but that could not be told.
So does a step after `MAX_UNLABELLED` queries where no label has come, and the guard cannot pass without. Where a person
decides when to go on, there is no such bound: the ``note`` says what is undecided, and why.
"""

from dataclasses import dataclass, replace

from proteus_cli.control.rollouts.guard import Guard
from proteus_cli.domain.rollouts.specification import RolloutSpecification
from proteus_cli.domain.rollouts.status import Ending, RolloutStage, RolloutStatus, Verdict
from proteus_cli.errors import Conflict

MIN_QUERIES = 100
"""Of a step; at any share, so that latency is seen under its load."""
MAX_SHADOWED = 2_000
MAX_UNLABELLED = 2_000
"""Answers of the new version, or shadowed queries of the shadow: by then a label of the family is to have come."""
LONGEST_SHADOW_S = 3_600.0
"""Devices may be too busy to shadow anything."""


@dataclass(frozen=True, slots=True)
class Step:
    """``number``: of the canary step, from 1; else 0. ``share`` of the queries that the new version answers in it."""

    stage: RolloutStage
    number: int = 0
    share: float = 0.0
    shadow_share: float = 0.0


@dataclass(frozen=True, slots=True)
class WantedStep:
    """What the driver brings about.

    ``share`` of the queries goes to the new version, the rest to the old one; ``shadow_share`` of what the old one
    answers is compared. The old version is kept loaded until ``ending``.
    ``note``: what could not be decided, and why.
    """

    step: Step
    waits_for_promote: bool = False
    ending: Ending | None = None
    reason: str = ""
    note: str = ""

    @property
    def stage(self) -> RolloutStage:
        return self.step.stage

    @property
    def share(self) -> float:
        return self.step.share

    @property
    def shadow_share(self) -> float:
        return self.step.shadow_share


class VersionRollout:
    """``wanted`` is what is to be now, since ``since_s``. Calls that make no sense then raise `Conflict`.

    ``old_accuracy`` as in `Guard`.
    """

    def __init__(
        self, specification: RolloutSpecification, slo_s: float, now_s: float, old_accuracy: float | None = None
    ) -> None:
        self.specification, self.guard = specification, Guard(specification, slo_s, old_accuracy)
        self._steps = _steps(specification)
        self._place = 0
        self.since_s = now_s
        self.wanted = WantedStep(self._steps[0])

    def ready(self, now_s: float) -> WantedStep:
        """The new version is measured and loaded."""
        self._require(RolloutStage.MEASURING)
        return self._advance(now_s)

    def decide(self, now_s: float) -> WantedStep:
        """Look at the guard and the time."""
        stage = self.wanted.stage
        if stage in {RolloutStage.MEASURING, RolloutStage.ENDED}:
            return self.wanted
        if self.guard.verdict is Verdict.FAIL:
            return self._end(Ending.ROLLED_BACK, f"the guard fails: {self.guard.reason}", now_s)
        if stage is RolloutStage.PROMOTING:
            return self.wanted
        if stage is RolloutStage.FULL:
            is_over = now_s - self.since_s >= self.specification.rollback_window_s
            return self._end(Ending.DONE, "", now_s) if is_over else self.wanted
        is_passed, unlabelled, undecided = self._is_passed(), self._why_unlabelled(), self._why_undecided(now_s)
        if not self.specification.is_auto:
            waits = is_passed or bool(undecided)
            self.wanted = replace(self.wanted, waits_for_promote=waits, note=unlabelled or undecided)
            return self.wanted
        if unlabelled:
            return self._end(Ending.ROLLED_BACK, unlabelled, now_s)
        if is_passed or undecided:
            return self._advance(now_s, undecided)
        if self.guard.counts.canary >= self.specification.most_queries:
            reason = f"undecided after {self.guard.counts.canary:,} queries: {self.guard.reason}"
            return self._end(Ending.ROLLED_BACK, reason, now_s)
        return self.wanted

    def promote(self, now_s: float, *, fully: bool = False) -> WantedStep:
        """A person says that it goes on to the next step, or ``fully``: to serve in place of the old one."""
        self._require(RolloutStage.SHADOW, RolloutStage.CANARY)
        if fully:
            self._place = (
                next(place for place, each in enumerate(self._steps) if each.stage is RolloutStage.PROMOTING) - 1
            )
        return self._advance(now_s)

    def promoted(self, now_s: float) -> WantedStep:
        """The catalog names the new version, and it serves in place of the old one."""
        self._require(RolloutStage.PROMOTING)
        return self._advance(now_s)

    def abort(self, now_s: float, reason: str) -> WantedStep:
        """A person says that the old version serves on, or again. Raises `Conflict` where the roll-out has ended."""
        if self.wanted.ending is not None:
            raise Conflict(f"the roll-out has ended: {self.wanted.ending}")
        return self._end(Ending.ABORTED, reason, now_s)

    def fail(self, now_s: float, reason: str) -> WantedStep:
        """End the roll-out, as it cannot go on; nothing changes where it has ended."""
        return self.wanted if self.wanted.ending is not None else self._end(Ending.FAILED, reason, now_s)

    def status(self, now_s: float) -> RolloutStatus:
        """What clients are told of the roll-out; times are seconds."""
        wanted, guard = self.wanted, self.guard
        return RolloutStatus(
            self.specification, wanted.stage, wanted.step.number, wanted.share, wanted.shadow_share,
            max(now_s - self.since_s, 0.0), guard.verdict, wanted.waits_for_promote, guard.counts, guard.status(),
            wanted.ending, wanted.reason, wanted.note,
        )  # fmt: skip

    def _is_passed(self) -> bool:
        counts = self.guard.counts
        if self.wanted.stage is RolloutStage.CANARY:
            return counts.canary >= MIN_QUERIES and self.guard.verdict is Verdict.PASS
        return counts.shadowed >= MIN_QUERIES and self.guard.verdict_of_shadow is Verdict.PASS

    def _why_unlabelled(self) -> str:
        """That the guard cannot pass, as no label has come in so many queries; empty where it may."""
        counts = self.guard.counts
        queries = counts.shadowed if self.wanted.stage is RolloutStage.SHADOW else counts.canary
        lacking = self.guard.lacking_labels if queries >= MAX_UNLABELLED else ""
        return lacking and f"no label has come in {queries:,} queries, without which it cannot pass: {lacking}"

    def _why_undecided(self, now_s: float) -> str:
        """That the shadow has lasted long enough, and has not passed; else empty."""
        if self.wanted.stage is not RolloutStage.SHADOW or self.guard.verdict_of_shadow is Verdict.PASS:
            return ""
        shadowed = self.guard.counts.shadowed
        if shadowed < MAX_SHADOWED and now_s - self.since_s < LONGEST_SHADOW_S:
            return ""
        return f"the shadow is undecided after {shadowed:,} queries: {self.guard.reason_of_shadow or 'too few'}"

    def _advance(self, now_s: float, note: str = "") -> WantedStep:
        self._place += 1
        step = self._steps[self._place]
        self.wanted, self.since_s = WantedStep(step, note=note), now_s
        if step.stage is not RolloutStage.PROMOTING:
            self.guard.begin_step(step.share)
        return self.wanted

    def _end(self, ending: Ending, reason: str, now_s: float) -> WantedStep:
        is_done = ending is Ending.DONE
        step = Step(RolloutStage.ENDED, share=float(is_done))
        self.wanted = WantedStep(step, ending=ending, reason=reason)
        self.since_s = now_s
        return self.wanted

    def _require(self, *stages: RolloutStage) -> None:
        if self.wanted.stage not in stages:
            at = self.wanted.ending or self.wanted.stage
            raise Conflict(f"the roll-out of `{self.specification.new}` is at `{at}`")


def _steps(specification: RolloutSpecification) -> tuple[Step, ...]:
    shadow = specification.shadow_frac
    canaries = [
        Step(RolloutStage.CANARY, number, share, shadow) for number, share in enumerate(specification.canary_fracs, 1)
    ]
    return (
        Step(RolloutStage.MEASURING),
        *([Step(RolloutStage.SHADOW, shadow_share=shadow)] if shadow else []),
        *canaries,
        Step(RolloutStage.PROMOTING, share=canaries[-1].share),
        Step(RolloutStage.FULL, share=1.0),
    )
