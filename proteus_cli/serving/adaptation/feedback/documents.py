"""The documents of ``/v2/proteus/feedback``: what clients tell, and are told; REST makes schemas of them."""

from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta, Struct

from proteus_cli.domain.base import Count, Fraction

MAX_ITEMS = 10_000
MAX_PROBLEMS = 100
"""That an answer names; of more, their number."""

Label = int | str
Score = Annotated[float, Meta(ge=0, le=1)]


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

    feedback: Annotated[list[FeedbackItem], Meta(max_length=MAX_ITEMS)]


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
    problems: Annotated[Sequence[FeedbackProblem], Meta(description=f"The first {MAX_PROBLEMS} of the wrong ones.")]


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
