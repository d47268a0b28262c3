"""What is told of a version roll-out."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from proteus_cli.domain.base import Count, Fraction, Value
from proteus_cli.domain.rollouts.specification import RolloutSpecification

Interval = tuple[float, float]


class Verdict(StrEnum):
    """What is known of a guard, or of one of its terms."""

    HOLD = "hold"  # not enough is known
    PASS = "pass"  # noqa: S105 - the new version is not notably worse than the guard allows
    FAIL = "fail"  # the new version is worse than the guard allows


class RolloutStage(StrEnum):
    """Where a version roll-out is."""

    MEASURING = "measuring"  # the new version is profiled and loaded; nobody asks it
    SHADOW = "shadow"  # it answers what the old one has answered, too; nobody sees its answers
    CANARY = "canary"  # it answers a share of the queries
    PROMOTING = "promoting"  # the catalog is to name it
    FULL = "full"  # it serves in place of the old one, which is kept warm
    ENDED = "ended"


class Ending(StrEnum):
    """How a version roll-out ended, exactly one of these; the old version serves after all but the first."""

    DONE = "done"
    ABORTED = "aborted"  # by a person
    ROLLED_BACK = "rolled back"  # the guard failed, or could not tell
    FAILED = "failed"  # it could not go on


class TermStatus(Value, frozen=True):
    """One term of the guard."""

    term: str
    verdict: Verdict
    observations: Annotated[Count, Meta(description="Values that it was judged by.")]
    new: Annotated[
        float | None, Meta(description="What was seen of the new version; for a quantile, the part that is late.")
    ]
    old: Annotated[float | None, Meta(description="What was seen of the old version meanwhile, where it is compared.")]
    new_interval: Annotated[Interval | None, Meta(description="The 95 % confidence interval of `new`, as of one look.")]
    old_interval: Annotated[Interval | None, Meta(description="That of `old`.")]
    against: Annotated[Fraction, Meta(description="Evidence that the term does not hold; at 1 it fails.")]
    in_favour: Annotated[Fraction, Meta(description="Evidence that it holds, or nearly does; at 1 it passes.")]


class StepCounts(Value, frozen=True):
    """Queries of the step that it is in."""

    canary: Annotated[Count, Meta(description="Answered by the new version.")] = 0
    labelled: Annotated[Count, Meta(description="Of those, the ones with feedback.")] = 0
    shadowed: Annotated[Count, Meta(description="Answered by both versions.")] = 0


class RolloutStatus(Value, frozen=True):
    """A version roll-out that is under way, or has ended."""

    specification: RolloutSpecification
    stage: RolloutStage
    step: Annotated[Count, Meta(description="The number of the canary step, from 1; 0 in other stages.")]
    share: Annotated[Fraction, Meta(description="Of the queries, that the new version answers.")]
    shadow_share: Annotated[Fraction, Meta(description="Of the answers of the old version, that are compared.")]
    stage_s: Annotated[float, Meta(description="Seconds since the step began, or since the end.")]
    verdict: Verdict
    waits_for_promote: Annotated[bool, Meta(description="A person is to say that it goes on.")]
    counts: StepCounts
    terms: tuple[TermStatus, ...]
    ending: Ending | None = None
    reason: str = ""
    note: Annotated[
        str,
        Meta(
            description="What it waits for, where nothing seems to happen, or could not decide. After the end: that "
            "the old version is being put back, until it serves alone."
        ),
    ] = ""

    @property
    def is_over(self) -> bool:
        """Whether the roll-out has ended, and what was to be put back is back."""
        return self.ending is not None and not self.note
