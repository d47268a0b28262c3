"""How the plan in force answers families in stages: by cascades, and by exits. For the status and the page."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from proteus_cli.control.controller import Controller
from proteus_cli.domain.base import Count, Fraction
from proteus_cli.domain.catalog import VariantKey


class CascadeStatus(Struct, frozen=True):
    """A cascade of the plan in force, at one threshold: what its first stage was to defer, and what it does."""

    first: str
    second: str
    threshold: float
    rate_qps: Annotated[float, Meta(description="Planned for this way.")]
    planned: Annotated[Fraction, Meta(description="The part of it that the plan counts on to be deferred.")]
    deferred_qps: Annotated[float, Meta(description="Planned to be deferred: that part of the rate.")]
    observed: Annotated[Fraction | None, Meta(description="The part of its rows that is below the threshold.")]
    rows: Annotated[Count, Meta(description="Rows since the first stage has its present thresholds.")]


class ExitsStatus(Struct, frozen=True):
    """A multi-exit model that the plan in force hosts."""

    variant: str
    shares: Annotated[
        Sequence[Fraction | None],
        Meta(description="Of each exit, the part of the rows that it answered when it was profiled; null: unknown."),
    ]
    cuts: Annotated[bool, Meta(description="Its answers are cut short where time is.")]


def cascades_of(controller: Controller, family: str) -> list[CascadeStatus]:
    """The cascades of the plan in force."""
    return [
        CascadeStatus(
            first=route.cascade.first,
            second=route.cascade.second,
            threshold=route.cascade.point.threshold,
            rate_qps=route.cascade.rate_qps,
            planned=route.cascade.point.deferred_frac,
            deferred_qps=route.cascade.deferred_qps,
            observed=observed,
            rows=rows,
        )
        for route in controller.cascades.in_use
        for observed, rows in [controller.cascades.observed(route)]
        if route.cascade.family == family
    ]


def exits_of(controller: Controller, family: str) -> list[ExitsStatus]:
    """The multi-exit models that the plan in force hosts, each once."""
    found = {host.variant: host for host in controller.families[family].hosts if host.exits}
    return [ExitsStatus(name, [each.share for each in host.exits], host.cuts) for name, host in found.items()]


def kept_fracs(controller: Controller) -> dict[VariantKey, float]:
    """What part of the newcomers that the plan sends to each variant it is planned to answer itself."""
    sent, deferred = defaultdict[VariantKey, float](float), defaultdict[VariantKey, float](float)
    for placement in controller.placements:
        sent[placement.key] += placement.rate_qps
    for cascade in controller.plan.cascades:
        deferred[VariantKey(cascade.family, cascade.first)] += cascade.deferred_qps
    return {key: max(0.0, 1 - deferred[key] / qps) if qps else 1.0 for key, qps in sent.items()}
