"""What the cells of a study say together: the costs of sharing, and how well pairs predict larger sets."""

from collections.abc import Iterable, Mapping, Sequence

from proteus_cli.domain.interference import CostPoint, Place, SharingCost, SharingModel, VariantName
from proteus_cli.studies.results import FULL_LOAD, SetCheck, SharingResult

_PAIR = 2


def costs_of(results: Iterable[SharingResult]) -> tuple[SharingCost, ...]:
    """The costs that were measured at full load, by batch. Of two of one batch, the higher counts."""
    found: dict[Place, dict[int, CostPoint]] = {}
    for result in results:
        for place, member in enumerate(result.members if result.load == FULL_LOAD else ()):
            at = (member.key, result.where, tuple(sorted(result.beside(place))))
            point, points = member.cost(result.rounds), found.setdefault(at, {})
            if member.batch not in points or points[member.batch].ratio < point.ratio:
                points[member.batch] = point
    return tuple(
        SharingCost(
            *key,
            where,
            tuple(VariantName(*other) for other in others),
            tuple(point for _, point in sorted(points.items())),
        )
        for (key, where, others), points in found.items()
    )


def pairs_only(costs: Iterable[SharingCost]) -> SharingModel:
    """The model that knows no set of three or more."""
    return SharingModel(cost for cost in costs if len(cost.beside) < _PAIR)


def checks_of(results: Mapping[str, SharingResult]) -> tuple[SetCheck, ...]:
    """What the pairs of each set of three or more predict at full load, and what was measured; by cell."""
    model = pairs_only(costs_of(results.values()))
    larger = {
        cell: result for cell, result in results.items() if len(result.members) > _PAIR and result.load == FULL_LOAD
    }
    return tuple(
        SetCheck(
            cell, qps_of(result, _predicted(model, result)), qps_of(result, [each.ratio for each in result.members])
        )
        for cell, result in larger.items()
    )


def _predicted(model: SharingModel, result: SharingResult) -> list[float]:
    return [
        model.factor(each.key, result.beside(place), batch=each.batch, where=result.where)
        for place, each in enumerate(result.members)
    ]


def qps_of(result: SharingResult, factors: Sequence[float]) -> float:
    """Rows per second of all variants, whose batches take so many times what they take alone.

    In turn on one device, a round of turns has a batch of each; on neighbours each goes on by itself.
    """
    batches_s = [factor * each.batch_s for factor, each in zip(factors, result.members, strict=True)]
    if result.where == "device":
        return sum(each.batch for each in result.members) / sum(batches_s)
    return sum(each.batch / batch_s for each, batch_s in zip(result.members, batches_s, strict=True))
