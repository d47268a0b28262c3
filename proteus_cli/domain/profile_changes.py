"""Accuracies out of several profiles, and the profile of a device after its catalog or its measurements changed."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import LiveAccuracyRecord, Profile, VariantProfile
from proteus_cli.domain.stages.cascade import CascadeProfile

Names = Mapping[VariantKey, str]
"""The names in the server of variants of the catalog file."""


def _distinct(profiles: Iterable[Profile]) -> Iterator[VariantProfile]:
    """All variants. Devices that are alike share theirs, which come once."""
    shared = {id(profile.variants): profile.variants for profile in profiles}
    return (measured for variants in shared.values() for measured in variants)


def accuracy_by_variant(profiles: Iterable[Profile]) -> dict[str, dict[str, float]]:
    """The variants of each family, the most accurate first, with the highest accuracy over all devices."""
    found: dict[str, dict[str, float]] = {}
    for measured in _distinct(profiles):
        of_family = found.setdefault(measured.family, {})
        of_family[measured.variant] = max(of_family.get(measured.variant, 0.0), measured.accuracy)
    return {family: dict(sorted(of.items(), key=lambda each: -each[1])) for family, of in found.items()}


def best_accuracy(profiles: Iterable[Profile]) -> dict[str, float]:
    """The accuracy of the most accurate variant of each family."""
    return {family: max(of.values()) for family, of in accuracy_by_variant(profiles).items()}


def relative(accuracy: float, best: float) -> float:
    """``accuracy`` as a part of the best; 1 if the best is 0."""
    return accuracy / best if best > 0 else 1.0


def accuracies(profiles: Mapping[str, Profile]) -> Callable[[str, str, str], float]:
    """The accuracy of a variant by device id, family and variant. It raises `KeyError` for unknown variants.

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
    """Families with a variant of estimated accuracy, so that all relative accuracies in them are estimates."""
    return frozenset(measured.family for measured in _distinct(profiles) if measured.estimated)


def live_accuracies(profiles: Iterable[Profile]) -> dict[VariantKey, LiveAccuracyRecord]:
    """The latest live accuracy of each variant that has one."""
    found: dict[VariantKey, LiveAccuracyRecord] = {}
    for measured in _distinct(profiles):
        live = measured.live
        if not isinstance(live, UnsetType) and (measured.key not in found or found[measured.key].time < live.time):
            found[measured.key] = live
    return found


def succeeding_profile(served: Profile, measured: Profile, names: Names) -> Profile:
    """The next profile of a device: measurements of the variants in ``names``, under these names, and all others.

    Others that are served stay, until the next plan drops them. Corrections that were made while serving stay if the
    engine is the same. The network comes from the measurement, which knows the rows of new families.
    """
    current = [_current(served, each) for each in in_server_names(measured, names).variants]
    now = {each.key for each in current}
    left = [each for each in served.variants if each.key not in now]
    going = {each.key for each in left}
    cascades = [*in_server_names(measured, names).cascades, *_about(served.cascades, going)]
    network = measured.network or served.network
    return replace(served, variants=(*current, *left), cascades=tuple(cascades), network=network)


def has_news(served: Profile, measured: Profile, names: Names) -> bool:
    """Whether the measurements of the variants in ``names`` differ from the profile that is served with."""
    after = succeeding_profile(served, measured, names)
    return {each.key: each for each in after.variants} != {each.key: each for each in served.variants}


def with_variant(profile: Profile, measured: VariantProfile) -> Profile:
    """The profile with a new measurement of one variant."""
    others = tuple(each for each in profile.variants if each.key != measured.key)
    return replace(profile, variants=(*others, measured))


def without_variants(profile: Profile, gone: Collection[VariantKey]) -> Profile:
    """The profile without some variants and their cascades."""
    variants = tuple(each for each in profile.variants if each.key not in gone)
    return replace(profile, variants=variants, cascades=_not_about(profile.cascades, gone))


def with_accuracies(profile: Profile, accuracies: Mapping[VariantKey, float]) -> Profile:
    """The profile with other accuracies of some variants. Their cascades go, as their accuracy is unknown then."""
    if not accuracies:
        return profile
    variants = tuple(replace(each, accuracy=accuracies.get(each.key, each.accuracy)) for each in profile.variants)
    return replace(profile, variants=variants, cascades=_not_about(profile.cascades, accuracies))


def as_recorded(profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """The profiles for planning: with the live accuracies that are recorded in any of them."""
    live = {key: each.accuracy for key, each in live_accuracies(profiles.values()).items()}
    return {device: with_accuracies(profile, live) for device, profile in profiles.items()}


def in_catalog_names(profile: Profile, names: Names) -> Profile:
    """The profile as its file has it: only the variants in ``names``, with their names in the catalog."""
    return in_server_names(profile, {VariantKey(key.family, name): key.variant for key, name in names.items()})


def in_server_names(profile: Profile, names: Names) -> Profile:
    """The profile of a file as the server has it: only the variants in ``names``, with these names."""
    variants = tuple(replace(each, variant=names[each.key]) for each in profile.variants if each.key in names)
    cascades = tuple(
        replace(each, first=names[first], second=names[second])
        for each in profile.cascades
        for first, second in [_both(each)]
        if first in names and second in names
    )
    return replace(profile, variants=variants, cascades=cascades)


def written_over(file: Profile, known: Profile) -> Profile:
    """The next content of a profile's file: corrections in ``known`` of the same measurements.

    Names are as in the file. Later measurements and other variants in the file stay.
    """
    better = {_measured_as(each): each for each in known.variants}
    variants = tuple(better.get(_measured_as(each), each) for each in file.variants)
    return replace(known, variants=variants, cascades=file.cascades)


def with_missing(file: Profile, measured: Profile) -> Profile:
    """The next content of a profile's file, after a like device was ``measured``: with all that the file lacked.

    Names are as in the file. It keeps its own measurements of the same models and eval splits, if they have times.
    """
    told = {_measured_as(each): each for each in file.variants if each.points}
    variants = [told.get(_measured_as(each), each) for each in measured.variants]
    news = {each.key for each in variants if _measured_as(each) not in told}
    known = {each.key for each in variants}
    others = [each for each in file.variants if each.key not in known]
    cascades = (*_about(measured.cascades, news), *_not_about(file.cascades, news))
    network = measured.network or file.network
    return replace(file, variants=(*variants, *others), cascades=cascades, network=network)


def _measured_as(measured: VariantProfile) -> tuple[object, ...]:
    return measured.key, measured.model_digest, measured.engine_digest, measured.eval_digest, measured.accuracy


def _current(served: Profile, measured: VariantProfile) -> VariantProfile:
    known = served.of(*measured.key)
    if known is None or known.recorded is UNSET or known.engine_digest != measured.engine_digest:
        return measured
    return replace(
        known, accuracy=measured.accuracy, estimated=measured.estimated, eval_digest=measured.eval_digest,
        live=measured.live,
    )  # fmt: skip


Cascades = tuple[CascadeProfile, ...]


def _both(cascade: CascadeProfile) -> tuple[VariantKey, VariantKey]:
    return VariantKey(cascade.family, cascade.first), VariantKey(cascade.family, cascade.second)


def _about(cascades: Cascades, keys: Collection[VariantKey]) -> Cascades:
    return tuple(each for each in cascades if any(key in keys for key in _both(each)))


def _not_about(cascades: Cascades, keys: Collection[VariantKey]) -> Cascades:
    return tuple(each for each in cascades if not any(key in keys for key in _both(each)))
