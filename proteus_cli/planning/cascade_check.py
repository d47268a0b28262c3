"""The part of a plan's check that concerns its cascades, independent of the model."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from proteus_cli.domain.plan import Placement
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.stages.cascade import SPLITS, CascadePoint, PlannedCascade

REL, ABS_QPS = 1e-5, 1e-5

PartOf = Callable[[Placement], float]
"""The shortest part of the SLO that a placement's batches fit."""


def problems_of_cascades(
    cascades: Sequence[PlannedCascade],
    hosts: Sequence[Placement],
    profiles: Mapping[str, Profile],
    part_of: PartOf,
) -> Iterator[str]:
    """The problems of a family's cascades with these placements."""
    served_qps = sum(placement.rate_qps for placement in hosts)
    for cascade in cascades:
        pair = f"{cascade.first} → {cascade.second}"
        known = [_known(profiles[p.device], cascade) for p in hosts if p.variant == cascade.first]
        if not all(point is not None and point.accuracy >= cascade.point.accuracy for point in known):
            yield f"{pair} at {cascade.point.threshold:g} isn't as good on each device that hosts {cascade.first}"
        if not _close(cascade.rate_qps, cascade.share * served_qps):
            yield f"{pair} has another share than its rate"
    for variant in {placement.variant for placement in hosts}:
        mine = [placement for placement in hosts if placement.variant == variant]
        through_qps = sum(cascade.rate_qps for cascade in cascades if cascade.first == variant)
        if through_qps > sum(placement.rate_qps for placement in mine) * (1 + REL) + ABS_QPS:
            yield f"more queries go through cascades of {variant} than it gets"
        deferred_qps = sum(cascade.deferred_qps for cascade in cascades if cascade.second == variant)
        if not _close(sum(placement.deferred_qps for placement in mine), deferred_qps):
            yield f"{variant} is to answer another rate than is deferred to it"
    if cascades and not _fit_the_slo(cascades, hosts, part_of):
        yield "the stages of its cascades take longer than the SLO together"


def gained_qps(
    cascades: Sequence[PlannedCascade], hosts: Sequence[Placement], profiles: Mapping[str, Profile]
) -> float:
    """How much cascades add to the sum of the accuracies of what is answered in a second."""
    gained = 0.0
    for cascade in cascades:
        first = [placement for placement in hosts if placement.key == (cascade.family, cascade.first)]
        rates = np.array([placement.rate_qps for placement in first])
        accuracies = [
            found.accuracy if (found := profiles[p.device].of(p.family, p.variant)) is not None else 0.0 for p in first
        ]
        gained += cascade.rate_qps * (cascade.point.accuracy - float(np.average(accuracies, weights=rates)))
    return gained


def _known(profile: Profile, cascade: PlannedCascade) -> CascadePoint | None:
    """The measured point of the cascade at its threshold on one device; None where the profile has none."""
    pair = (cascade.family, cascade.first, cascade.second)
    for each in profile.cascades:
        if (each.family, each.first, each.second) == pair:
            return next((point for point in each.points if point.threshold == cascade.point.threshold), None)
    return None


def _fit_the_slo(cascades: Sequence[PlannedCascade], hosts: Sequence[Placement], part_of: PartOf) -> bool:
    """Whether the queries of each cascade can be given placements of both stages that fit the SLO together."""
    part = {id(placement): part_of(placement) for placement in hosts}
    longest = [
        max((part[id(p)] for p in hosts if p.variant == c.first and p.rate_qps > 0), default=0.0)
        + max((part[id(p)] for p in hosts if p.variant == c.second and p.deferred_qps > 0), default=0.0)
        for c in cascades
    ]
    if max(longest) <= 1:
        return True
    from scipy.optimize import linprog  # noqa: PLC0415 - takes 0.5 s, which no other check needs

    rows: list[list[float]] = []
    limits: list[float] = []

    def limit(variant: str, level: float, needed: list[list[float]], given: Callable[[Placement], float]) -> None:
        mine = [
            given(placement) for placement in hosts if placement.variant == variant and part[id(placement)] <= level
        ]
        rows.append([each for of_cascade in needed for each in of_cascade])
        limits.append(sum(mine) * (1 + REL) + ABS_QPS)

    for variant in {placement.variant for placement in hosts}:
        for split in SPLITS:
            first = [[float(c.first == variant and s <= split) for s in SPLITS] for c in cascades]
            limit(variant, split, first, lambda placement: placement.rate_qps)
            second = [
                [c.point.deferred_frac * (c.second == variant and 1 - s <= 1 - split) for s in SPLITS] for c in cascades
            ]
            limit(variant, 1 - split, second, lambda placement: placement.deferred_qps)
    whole = np.kron(np.eye(len(cascades)), np.ones(len(SPLITS)))
    rates = np.array([cascade.rate_qps for cascade in cascades])
    found = linprog(np.zeros(whole.shape[1]), A_ub=np.array(rows), b_ub=limits, A_eq=whole, b_eq=rates)
    return bool(found.status == 0)


def _close(left: float, right: float) -> bool:
    return bool(np.isclose(left, right, rtol=REL, atol=ABS_QPS))
