"""A version roll-out as a state machine: the share of queries that the new version answers now.

It goes through its steps in order, or ends::

    measuring → shadow → canary 1 → … → canary n → promoting → full → done
        └──────────┴─────────┴─── aborted, rolled back, failed ──┴───┘

The new version is ready (measured and loaded), the catalog names it, it cannot go on, or a person has decided: the
driver reports each event. It gives observations to `guard`, and calls `decide` about once a second. Each call
returns the `WantedStep` from now on. The same `WantedStep` may come twice.

**Invariants.** The share of the new version grows only with a step. A step is left only if the guard passes, with
``is_auto``, or a person says so. A roll-out has one end. After it, the new version gets queries only if it is done.

**Passing a step.** A canary step passes once the new version has answered `MIN_QUERIES` in it and all terms pass. The
shadow passes once as many queries were compared and the terms that it can decide pass. Clients do not see its answers,
so it also passes after `MAX_SHADOWED` queries or `LONGEST_SHADOW_S`, unless the guard fails. The first canary step then
uses its observations, and has a ``note``. Two cases end a roll-out without a decision: a
canary step of ``most_queries``, and a step of `MAX_UNLABELLED` queries without a label, if the guard needs one. If a
person decides, the ``note`` says so instead.
"""

from dataclasses import dataclass, replace
from hashlib import blake2b

from proteus_cli.control.rollouts.guard import Guard
from proteus_cli.domain.rollouts import Ending, RolloutSpecification, RolloutStage, RolloutStatus, Verdict
from proteus_cli.errors import Conflict

MIN_QUERIES = 100
"""The fewest queries of a step, whatever its share: latency is seen under its load."""
MAX_SHADOWED = 2_000
MAX_UNLABELLED = 2_000
"""Answers of the new version, or shadowed queries, by which a label of the family must have come."""
LONGEST_SHADOW_S = 3_600.0
"""Devices may be too busy to shadow anything."""


_HASH_BYTES = 8
_HASHES: int = 2 ** (8 * _HASH_BYTES)


@dataclass(frozen=True, slots=True)
class CanaryArm:
    """The part ``share`` of requests that are canaries.

    A request is one by its key alone, and stays one while the share grows. Each roll-out has a ``salt`` of its own, so
    that other requests are its canaries than in the last one.
    """

    salt: str
    share: float

    def has(self, key: str) -> bool:
        """Whether requests with this key are canaries."""
        found = blake2b(f"{self.salt}\n{key}".encode(errors="surrogatepass"), digest_size=_HASH_BYTES).digest()
        return int.from_bytes(found) < self.share * _HASHES


@dataclass(frozen=True, slots=True)
class WantedStep:
    """The state that the driver must bring about.

    ``share`` of the queries goes to the new version, the rest to the old one. ``shadow_share`` of the old version's
    answers is compared. The old version is kept loaded until ``ending``. ``number`` counts canary steps from 1.
    ``note`` names an undecided matter, with the reason.
    """

    stage: RolloutStage
    number: int = 0
    share: float = 0.0
    shadow_share: float = 0.0
    waits_for_promote: bool = False
    ending: Ending | None = None
    reason: str = ""
    note: str = ""


class VersionRollout:
    """``wanted`` is the state since ``since_s``. Calls that do not fit it raise `Conflict`.

    ``old_accuracy`` is as in `Guard`.
    """

    def __init__(
        self, specification: RolloutSpecification, slo_s: float, now_s: float, old_accuracy: float | None = None
    ) -> None:
        self.specification, self.guard = specification, Guard(specification, slo_s, old_accuracy)
        self._steps = _steps(specification)
        self._place = 0
        self.since_s = now_s
        self.wanted = self._steps[0]

    def ready(self, now_s: float) -> WantedStep:
        """The new version is measured and loaded."""
        self._require(RolloutStage.MEASURING)
        return self._advance(now_s)

    def decide(self, now_s: float) -> WantedStep:
        """Apply the guard and the time."""
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
        is_passed, unlabelled, undecided = self._progress(now_s)
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
        """A person goes on to the next step, or ``fully``: to serve in place of the old version."""
        self._require(RolloutStage.SHADOW, RolloutStage.CANARY)
        if fully:
            self._place = len(self._steps) - 3
        return self._advance(now_s)

    def promoted(self, now_s: float) -> WantedStep:
        """The catalog names the new version, and it serves in place of the old one."""
        self._require(RolloutStage.PROMOTING)
        return self._advance(now_s)

    def abort(self, now_s: float, reason: str) -> WantedStep:
        """A person keeps or restores the old version. Raises `Conflict` if the roll-out has ended."""
        if self.wanted.ending is not None:
            raise Conflict(f"the roll-out has ended: {self.wanted.ending}")
        return self._end(Ending.ABORTED, reason, now_s)

    def fail(self, now_s: float, reason: str) -> WantedStep:
        """End a roll-out that cannot go on, unless it has ended."""
        return self.wanted if self.wanted.ending is not None else self._end(Ending.FAILED, reason, now_s)

    def status(self, now_s: float) -> RolloutStatus:
        """The published state of the roll-out; times are seconds."""
        wanted, guard = self.wanted, self.guard
        return RolloutStatus(
            self.specification, wanted.stage, wanted.number, wanted.share, wanted.shadow_share,
            max(now_s - self.since_s, 0.0), guard.verdict, wanted.waits_for_promote, guard.counts, guard.status(),
            wanted.ending, wanted.reason, wanted.note,
        )  # fmt: skip

    def _progress(self, now_s: float) -> tuple[bool, str, str]:
        """Whether a shadow or canary step passes, the labels it lacks, and the reason if a long shadow is undecided."""
        guard, is_shadow = self.guard, self.wanted.stage is RolloutStage.SHADOW
        queries = guard.counts.shadowed if is_shadow else guard.counts.canary
        does_pass = (guard.verdict_of_shadow if is_shadow else guard.verdict) is Verdict.PASS
        unlabelled = guard.lacking_labels if queries >= MAX_UNLABELLED else ""
        if unlabelled:
            unlabelled = f"no label has come in {queries:,} queries, without which it cannot pass: {unlabelled}"
        undecided = ""
        is_long = queries >= MAX_SHADOWED or now_s - self.since_s >= LONGEST_SHADOW_S
        if is_shadow and is_long and not does_pass:
            undecided = f"the shadow is undecided after {queries:,} queries: {guard.reason_of_shadow or 'too few'}"
        return does_pass and queries >= MIN_QUERIES, unlabelled, undecided

    def _advance(self, now_s: float, note: str = "") -> WantedStep:
        self._place += 1
        self.wanted, self.since_s = replace(self._steps[self._place], note=note), now_s
        if self.wanted.stage is not RolloutStage.PROMOTING:
            self.guard.begin_step(self.wanted.share)
        return self.wanted

    def _end(self, ending: Ending, reason: str, now_s: float) -> WantedStep:
        share = float(ending is Ending.DONE)
        self.wanted, self.since_s = WantedStep(RolloutStage.ENDED, share=share, ending=ending, reason=reason), now_s
        return self.wanted

    def _require(self, *stages: RolloutStage) -> None:
        if self.wanted.stage not in stages:
            at = self.wanted.ending or self.wanted.stage
            raise Conflict(f"the roll-out of `{self.specification.new}` is at `{at}`")


def _steps(specification: RolloutSpecification) -> tuple[WantedStep, ...]:
    shadow, shares = specification.shadow_frac, specification.canary_fracs
    return (
        WantedStep(RolloutStage.MEASURING),
        *([WantedStep(RolloutStage.SHADOW, shadow_share=shadow)] if shadow else []),
        *(WantedStep(RolloutStage.CANARY, number, share, shadow) for number, share in enumerate(shares, 1)),
        WantedStep(RolloutStage.PROMOTING, share=shares[-1]),
        WantedStep(RolloutStage.FULL, share=1.0),
    )
