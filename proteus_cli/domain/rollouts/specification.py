"""The specification of a version roll-out."""

from itertools import pairwise

from proteus_cli.domain.base import Value, is_count, require
from proteus_cli.domain.rollouts.guard_terms import DEFAULT_GUARD, Term

DEFAULT_CANARY = (0.01, 0.1, 0.5)
DEFAULT_CONFIDENCE = 0.95
DEFAULT_ROLLBACK_WINDOW_S = 600.0
DEFAULT_MOST_QUERIES = 25_000
"""An equal version has passed by then in 95 of 100 cases, also in the hardest one: an accuracy of 50 %, half of all
queries (`control/rollouts/`, "Duration")."""
MAX_STEPS = 10
MAX_ROLLBACK_WINDOW_S = 30 * 86_400.0
MIN_CONFIDENCE, MAX_CONFIDENCE = 0.5, 0.9999


class RolloutSpecification(Value, frozen=True):
    """``old`` and ``new`` are names of versions of a variant, as the server calls them: ``digits-l``, ``digits-l@2``.

    ``shadow_frac`` of what the old one answers is asked of the new one, too; 0: nothing is. ``canary_fracs``: the share
    of the queries that the new one answers, step by step. With ``is_auto``, a step ends once the guard passes; a step
    that the guard has not passed after ``most_queries`` answers of the new version ends the roll-out.
    """

    family: str
    old: str
    new: str
    shadow_frac: float = 0.0
    canary_fracs: tuple[float, ...] = DEFAULT_CANARY
    guard: tuple[Term, ...] = DEFAULT_GUARD
    confidence: float = DEFAULT_CONFIDENCE
    is_auto: bool = False
    rollback_window_s: float = DEFAULT_ROLLBACK_WINDOW_S
    most_queries: int = DEFAULT_MOST_QUERIES

    def __post_init__(self) -> None:
        require(self.old != self.new, f"`{self.new}` serves already")
        require(0 <= self.shadow_frac <= 1, "shadow_frac must be a part of all answers, from 0 to 1")
        steps = self.canary_fracs
        require(1 <= len(steps) <= MAX_STEPS, f"there are 1 to {MAX_STEPS} canary steps")
        require(all(0 < each < 1 for each in steps), "a canary step must be more than none and less than all queries")
        require(all(a < b for a, b in pairwise(steps)), "each canary step must be larger than the last")
        within = MIN_CONFIDENCE <= self.confidence <= MAX_CONFIDENCE
        require(within, f"the confidence must be from {MIN_CONFIDENCE} to {MAX_CONFIDENCE}")
        within = 0 <= self.rollback_window_s <= MAX_ROLLBACK_WINDOW_S
        require(within, f"rollback_window_s must be from 0 to {MAX_ROLLBACK_WINDOW_S:.0f} (30 days)")
        require(is_count(self.most_queries, 1), "most_queries must be a whole number from 1 to 2^53")
        metrics = {term.metric for term in self.guard}
        require(0 < len(metrics) == len(self.guard), "a guard has one or more terms, at most one of each metric")
