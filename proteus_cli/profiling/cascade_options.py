"""The ways in which one device can answer a family's queries: variants alone, and cascades of two."""

from collections.abc import Iterator
from dataclasses import dataclass

from proteus_cli.domain.catalog import Family, VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.cascade import CascadePoint
from proteus_cli.profiling.cascades import hull

AS_ACCURATE_FRAC = 0.003
"""An option that is less accurate by no more is a substitute for the most accurate one."""


@dataclass(frozen=True, slots=True)
class Option:
    """A variant, or a cascade of ``first`` and ``second`` at one of its points; ``qps`` is what the device carries.

    The seconds of a query in both stages of a cascade are added, as on one device.
    """

    family: str
    first: str
    accuracy: float
    qps: float
    second: str | None = None
    point: CascadePoint | None = None

    @property
    def variants(self) -> tuple[VariantKey, ...]:
        return tuple(VariantKey(self.family, name) for name in (self.first, self.second) if name is not None)


def options_of(family: Family, profile: Profile) -> list[Option]:
    """All options whose variants meet the SLO on the device, each with its best batch size."""
    slo_s, attainment = family.slo_s, family.attainment
    rates_qps = {
        measured.variant: Rules().capacity_within(slo_s, profile.points_of(measured), attainment=attainment).qps
        for measured in profile.variants
        if measured.family == family.name
    }
    return [option for option in _options(family, profile, rates_qps) if option.qps > 0]


def _options(family: Family, profile: Profile, rates_qps: dict[str, float]) -> Iterator[Option]:
    for measured in profile.variants:
        if measured.family == family.name:
            yield Option(family.name, measured.variant, measured.accuracy, rates_qps[measured.variant])
    for cascade in profile.cascades:
        if cascade.family != family.name:
            continue
        first_qps, second_qps = rates_qps.get(cascade.first, 0.0), rates_qps.get(cascade.second, 0.0)
        if first_qps > 0 and second_qps > 0:
            for point in cascade.points:
                rate_qps = 1 / (1 / first_qps + point.deferred_frac / second_qps)
                yield Option(family.name, cascade.first, point.accuracy, rate_qps, cascade.second, point)


def frontier(options: list[Option]) -> list[Option]:
    """The options that a device which shares its time between two of them can't replace, the fastest first.

    They are the concave hull of (seconds per query, accuracy).
    """
    if not options:
        return []
    fastest, *others = sorted(options, key=lambda option: (-option.qps, -option.accuracy))
    vertices = hull([(1 / option.qps, option.accuracy) for option in others], (1 / fastest.qps, fastest.accuracy))
    return [fastest, *(others[vertex.place] for vertex in vertices)]


def substitute(options: list[Option]) -> tuple[Option, Option] | None:
    """The most accurate variant, and the fastest cascade that is as accurate, by `AS_ACCURATE_FRAC`.

    A cascade does not count where some variant alone is at least as fast and as accurate. Without such a cascade, the
    most accurate one of the `frontier`. None where that has none, or there is no variant to compare it with.
    """
    alone, cascades = (
        [option for option in options if (option.second is not None) == is_cascade] for is_cascade in (False, True)
    )
    if not alone or not cascades:
        return None
    best = max(alone, key=lambda option: option.accuracy)
    min_accuracy = best.accuracy - AS_ACCURATE_FRAC
    as_accurate = [option for option in cascades if option.accuracy >= min_accuracy and not _is_beaten(option, alone)]
    if as_accurate:
        return best, max(as_accurate, key=lambda option: option.qps)
    worth_it = [option for option in frontier(options) if option.second is not None]
    return (best, max(worth_it, key=lambda option: option.accuracy)) if worth_it else None


def _is_beaten(cascade: Option, alone: list[Option]) -> bool:
    return any(option.qps >= cascade.qps and option.accuracy >= cascade.accuracy for option in alone)
