"""Whether the guard of a version roll-out finds a loss soon enough, and lets an equal version pass; simulated.

The machine and the guard are those of the server; queries are drawn. Each query has a label, and is asked of the new
version with the probability of the step. *Arms alone*: one canary step, and no shadow; each version answers its own
queries. *Whole roll-outs*: a shadow, and canary steps of 1, 10 and 50 %. The new version errs on a part of the
queries that the old one errs on, and on as many others as its accuracy says. *At the bound*: a version that is just as
bad as three terms allow is tested with each query, and should keep its place however often that is.

Seeds here were not used to choose the constants of the guard.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from benchmarks.tables import Aim, Table
from proteus_cli.control.rollouts.guard import Arm, Guard
from proteus_cli.control.rollouts.version_rollout import VersionRollout
from proteus_cli.domain.rollouts import (
    DEFAULT_CANARY,
    DEFAULT_GUARD,
    Ending,
    GuardMetric,
    RolloutSpecification,
    RolloutStage,
    Term,
    Verdict,
)

SEEDS = 100
WITHIN = 2_000
"""Labelled canary queries in which a loss of `LOSS` is to be found."""
LOSS = 0.02
MIN_PERCENT = 95.0
SHADOW = 0.05
COMMON = 0.5
"""Of the queries that the old version errs on, the new one errs on this part, too."""
QUERIES_A_SECOND = 100
SLO_S, LATENCY_S = 0.1, 0.02
MAX_SECONDS = 60_000
"""Of simulated time: more than any of these roll-outs takes."""

BOUND_GUARD, BOUND_QUERIES = (*DEFAULT_GUARD, Term(GuardMetric.ERRORS, value=0.01)), 5_000
BOUND_ACCURACY, BOUND_LOSS, BOUND_PART = 0.92, 0.005, 0.01

CELLS = (
    *((0.92, 0.1, change) for change in (0.01, 0.0, -0.01, -LOSS, -0.05)),
    *((0.92, share, change) for share in (0.01, 0.5) for change in (0.0, -LOSS)),
    *((accuracy, share, change) for accuracy in (0.7, 0.96) for share in (0.1, 0.5) for change in (0.0, -LOSS)),
)
"""Arms alone: the accuracy of the old version, the share of the new one, and by how much it is better."""
ROLLOUTS = (
    *((0.92, SHADOW, change) for change in (0.01, 0.0, -0.01, -LOSS, -0.05)),
    *((accuracy, SHADOW, change) for accuracy in (0.7, 0.96) for change in (0.0, -LOSS)),
    *((0.7, 2 * SHADOW, change) for change in (0.0, -LOSS)),
)
"""Whole roll-outs: the accuracy of the old version, what is shadowed, and by how much the new version is better."""


@dataclass(frozen=True)
class Run:
    """How a roll-out ended, and after how many labelled queries of the new version."""

    is_promoted: bool
    labelled: int


@dataclass(frozen=True)
class Found:
    """Roll-outs of one kind, by seed. ``share``: of the only canary step; None: all steps, and a ``shadow``."""

    accuracy: float
    change: float
    share: float | None
    runs: Sequence[Run]
    shadow: float = 0.0

    @property
    def promoted_percent(self) -> float:
        return 100 * sum(run.is_promoted for run in self.runs) / len(self.runs)

    @property
    def promoted_within_percent(self) -> float:
        """What would be promoted if all that is undecided after `WITHIN` were rolled back."""
        return 100 * sum(run.is_promoted and run.labelled <= WITHIN for run in self.runs) / len(self.runs)

    @property
    def rolled_back_within_percent(self) -> float:
        return 100 * sum(not run.is_promoted and run.labelled <= WITHIN for run in self.runs) / len(self.runs)

    def labelled(self, percent: float) -> float:
        return float(np.percentile([run.labelled for run in self.runs], percent, method="higher"))

    @property
    def possible_percent(self) -> float | None:
        """What any test of the arms could roll back within `WITHIN` that does so with 5 % of equal versions."""
        return None if self.share is None else 100 * best_power(self.accuracy, self.change, self.share)


def best_power(accuracy: float, change: float, share: float) -> float:
    """The probability that a version is rolled back by the best test, which looks once, at `WITHIN` queries.

    By the normal approximation; no test that may look earlier finds more by then (Neyman and Pearson).
    """
    normal, new = NormalDist(), accuracy + change
    old = accuracy * (1 - accuracy) * share / (1 - share)
    equal, other = (math.sqrt((old + each * (1 - each)) / WITHIN) for each in (accuracy, new))
    return normal.cdf((-change - normal.inv_cdf(MIN_PERCENT / 100) * equal) / other)


def measured(seeds: int) -> list[Found]:
    arms = [
        Found(accuracy, change, share, [simulated(accuracy, change, share, seed) for seed in range(seeds)])
        for accuracy, share, change in CELLS
    ]
    return arms + [
        Found(
            accuracy, change, None, [simulated(accuracy, change, None, seed, shadow) for seed in range(seeds)], shadow
        )
        for accuracy, shadow, change in ROLLOUTS
    ]


def simulated(accuracy: float, change: float, share: float | None, seed: int, shadow: float = 0.0) -> Run:
    """One roll-out that goes by itself. Raises `AssertionError` where it does not end."""
    specification = RolloutSpecification(
        "digits", "digits-l", "digits-l@2", shadow_frac=shadow,
        canary_fracs=DEFAULT_CANARY if share is None else (share,), guard=DEFAULT_GUARD, is_auto=True,
    )  # fmt: skip
    rng = np.random.default_rng((seed, round(1000 * accuracy), round(1000 * (change + 1)), round(1000 * (share or 0))))
    rollout = VersionRollout(specification, SLO_S, 0.0, accuracy)
    rollout.ready(0.0)
    labelled = 0
    for second in range(1, MAX_SECONDS):
        labelled += _one_second(rollout, accuracy, change, rng)
        stage = rollout.decide(float(second)).stage
        if stage in {RolloutStage.PROMOTING, RolloutStage.ENDED}:
            assert rollout.wanted.ending in {None, Ending.ROLLED_BACK}
            return Run(stage is RolloutStage.PROMOTING, labelled)
    raise AssertionError("a roll-out does not end")


def _one_second(rollout: VersionRollout, accuracy: float, change: float, rng: np.random.Generator) -> int:
    """Queries of both versions, which all get their labels; the number of those that the new one answered."""
    guard, wanted, asked_new = rollout.guard, rollout.wanted, 0
    for arm_drawn, is_shadowed, old_right, new_right in _queries(accuracy, change, rng):
        if arm_drawn < wanted.share:
            asked_new += 1
            guard.answered(Arm.NEW, LATENCY_S)
            guard.labelled(Arm.NEW, new_right)
        elif is_shadowed < wanted.shadow_share:
            guard.shadowed(float(old_right == new_right))
            guard.labelled_shadow(old_right, new_right)
        else:
            guard.labelled(Arm.OLD, old_right)
    return asked_new


def _queries(accuracy: float, change: float, rng: np.random.Generator) -> Iterator[tuple[float, float, float, float]]:
    """Two numbers that decide who is asked, and whether the old and the new version answer rightly."""
    drawn = rng.random((4, QUERIES_A_SECOND))
    old_right = drawn[2] < accuracy
    new_wrong = 1 - accuracy - change
    wrong_alone = (new_wrong - COMMON * (1 - accuracy)) / accuracy
    assert wrong_alone >= 0, "a version that is much better has fewer errors in common"
    new_right = drawn[3] >= np.where(old_right, wrong_alone, COMMON)
    columns = drawn[0], drawn[1], old_right.astype(float), new_right.astype(float)
    return zip(*(column.tolist() for column in columns), strict=True)


def fails_at_the_bound(seed: int) -> bool:
    """Whether a version fails within `BOUND_QUERIES` that keeps all terms, but none with anything to spare."""
    guard = Guard(RolloutSpecification("digits", "digits-l", "digits-l@2", guard=BOUND_GUARD), SLO_S, BOUND_ACCURACY)
    guard.begin_step(0.5)
    drawn = np.random.default_rng((seed, 1)).random((4, BOUND_QUERIES))
    new, old = drawn[0] < BOUND_ACCURACY - BOUND_LOSS, drawn[1] < BOUND_ACCURACY
    columns = new.astype(float), old.astype(float), drawn[2] < BOUND_PART, drawn[3] < BOUND_PART
    for new_right, old_right, is_late, is_failed in zip(*(column.tolist() for column in columns), strict=True):
        guard.labelled(Arm.NEW, new_right)
        guard.labelled(Arm.OLD, old_right)
        guard.answered(Arm.NEW, None if is_late else LATENCY_S, is_failed=is_failed)
        if guard.verdict is Verdict.FAIL:
            return True
    return False


def tables(found: Sequence[Found]) -> list[Table]:
    columns = (
        "accuracy", "new, points", "canary", "promoted, %", f"before {WITHIN:,}, %",
        f"rolled back before {WITHIN:,}, %", "possible, %", "queries: median", "95 %",
    )  # fmt: skip
    note = (
        "queries: canary queries with labels; possible: by any test of the arms that rolls 5 % of equal versions back"
    )
    return [
        Table("The guard: arms alone", columns, tuple(_row(each) for each in found if each.share is not None), note),
        Table("The guard: whole roll-outs", columns, tuple(_row(each) for each in found if each.share is None), note),
    ]


def _row(found: Found) -> tuple[str, ...]:
    possible = found.possible_percent if found.change < 0 else None
    return (
        f"{found.accuracy:.2f}", f"{100 * found.change:+.0f}",
        f"shadow {found.shadow:.0%}" if found.share is None else f"{found.share:.0%}",
        f"{found.promoted_percent:.0f}", f"{found.promoted_within_percent:.0f}",
        f"{found.rolled_back_within_percent:.0f}", "–" if possible is None else f"{possible:.0f}",
        f"{found.labelled(50):,.0f}", f"{found.labelled(95):,.0f}",
    )  # fmt: skip


def aims(found: Sequence[Found], fails: Sequence[bool]) -> list[Aim]:
    """What the issue asks for, of the worst kind of each; ``fails`` are those at the bound."""
    whole, arms = ([each for each in found if (each.share is None) is is_whole] for is_whole in (True, False))
    failed = 100 * sum(fails) / len(fails)
    what = f"as bad as the guard allows, tested {BOUND_QUERIES:,} times: rolled back"
    at_the_bound = Aim(what, failed, 100 - MIN_PERCENT, "% of seeds", is_most=True)
    kinds = dict.fromkeys((each.accuracy, each.shadow) for each in whole)
    of_whole = (_aims([each for each in whole if (each.accuracy, each.shadow) == kind], _kind(*kind)) for kind in kinds)
    return [*(aim for each in of_whole for aim in each), *_aims(arms, "arms alone"), at_the_bound]


def _kind(accuracy: float, shadow: float) -> str:
    return f"roll-outs at {accuracy:.2f}, shadow {shadow:.0%}"


def _aims(found: Sequence[Found], what: str) -> Iterator[Aim]:
    worse = min((each for each in found if each.change == -LOSS), key=lambda each: each.rolled_back_within_percent)
    equal = min(each.promoted_percent for each in found if each.change == 0)
    missed = max(each.promoted_percent for each in found if each.change == -LOSS)
    text = f"{what}, 2 points worse: rolled back before {WITHIN:,} labelled canary queries"
    yield Aim(
        text,
        worse.rolled_back_within_percent,
        MIN_PERCENT,
        "% of seeds",
        is_most=False,
        possible=worse.possible_percent,
    )
    yield Aim(f"{what}, equal: promoted", equal, MIN_PERCENT, "% of seeds", is_most=False)
    yield Aim(f"{what}, 2 points worse: promoted", missed, 100 - MIN_PERCENT, "% of seeds", is_most=True)
