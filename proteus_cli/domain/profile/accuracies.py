"""Accuracies of variants and families, out of the profiles of several devices."""

from collections.abc import Callable, Iterable, Mapping

from msgspec import UnsetType

from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.profile.profile import LiveAccuracyRecord, Profile


def accuracy_by_variant(profiles: Iterable[Profile]) -> dict[str, dict[str, float]]:
    """The variants of each family, the most accurate first, with the accuracy on the device where that is highest."""
    found: dict[str, dict[str, float]] = {}
    distinct = {id(profile.variants): profile.variants for profile in profiles}  # like devices share theirs
    for measured in (variant for variants in distinct.values() for variant in variants):
        of_family = found.setdefault(measured.family, {})
        of_family[measured.variant] = max(of_family.get(measured.variant, 0.0), measured.accuracy)
    return {family: dict(sorted(of.items(), key=lambda each: -each[1])) for family, of in found.items()}


def best_accuracy(profiles: Iterable[Profile]) -> dict[str, float]:
    """The accuracy of the most accurate variant of each family, whatever it costs."""
    return {family: max(of.values()) for family, of in accuracy_by_variant(profiles).items()}


def relative(accuracy: float, best: float) -> float:
    """``accuracy`` as a part of the best; the whole where even the best is 0."""
    return accuracy / best if best > 0 else 1.0


def accuracies(profiles: Mapping[str, Profile]) -> Callable[[str, str, str], float]:
    """The accuracy of a variant by device id, family and variant; raises `KeyError` where it was never profiled.

    Devices that share one profile share the work.
    """
    known: dict[int, dict[tuple[str, str], float]] = {}

    def accuracy(device: str, family: str, variant: str) -> float:
        variants = profiles[device].variants
        if id(variants) not in known:
            known[id(variants)] = {(v.family, v.variant): v.accuracy for v in variants}
        return known[id(variants)][family, variant]

    return accuracy


def estimated_families(profiles: Iterable[Profile]) -> frozenset[str]:
    """The families of which some variant's accuracy is an estimate, and with it the relative accuracy of all."""
    distinct = {id(profile.variants): profile.variants for profile in profiles}
    return frozenset(measured.family for variants in distinct.values() for measured in variants if measured.estimated)


def live_accuracies(profiles: Iterable[Profile]) -> dict[VariantKey, LiveAccuracyRecord]:
    """What is recorded of variants, the last of each."""
    found: dict[VariantKey, LiveAccuracyRecord] = {}
    for measured in (each for profile in profiles for each in profile.variants):
        live = measured.live
        if not isinstance(live, UnsetType) and (measured.key not in found or found[measured.key].time < live.time):
            found[measured.key] = live
    return found
