"""What is known of a device when the catalog changes: what was measured anew, and what serves until that takes over.

Accuracies of variants and families, out of the profiles of several devices.
"""

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec
from msgspec import UNSET, UnsetType

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import LiveAccuracyRecord, Profile, VariantProfile
from proteus_cli.domain.stages.cascade import CascadeProfile


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


Names = Mapping[VariantKey, str]
"""What variants of the catalog file are called in the server."""


def succeeding_profile(served: Profile, measured: Profile, names: Names) -> Profile:
    """The profile of a device from now on: what was ``measured`` of the variants in ``names``, by these.

    What is known of others stays: of those that serve until the next plan, and of those whose accuracy alone is not
    current. So do corrections that were made while serving, of engines that are still the same. The network knows the
    rows of new families.
    """
    current = [_current(served, each, names[each.key]) for each in measured.variants if each.key in names]
    now = {each.key for each in current}
    left = [each for each in served.variants if each.key not in now]
    cascades = [_renamed(each, names) for each in measured.cascades if all(key in names for key in _both(each))]
    going = {each.key for each in left}
    cascades += [each for each in served.cascades if going.intersection(_both(each))]
    network = measured.network or served.network
    return msgspec.structs.replace(served, variants=(*current, *left), cascades=tuple(cascades), network=network)


def has_news(served: Profile, measured: Profile, names: Names) -> bool:
    """Whether other things are known of the variants in ``names`` than what is served with."""
    after = succeeding_profile(served, measured, names)
    return {each.key: each for each in after.variants} != {each.key: each for each in served.variants}


def with_variant(profile: Profile, measured: VariantProfile) -> Profile:
    """The profile with what was measured of one more variant, or anew of one."""
    others = tuple(each for each in profile.variants if each.key != measured.key)
    return msgspec.structs.replace(profile, variants=(*others, measured))


def without_variants(profile: Profile, gone: Collection[VariantKey]) -> Profile:
    """The profile without variants that no device has any more."""
    variants = tuple(each for each in profile.variants if each.key not in gone)
    cascades = tuple(each for each in profile.cascades if not any(key in gone for key in _both(each)))
    return msgspec.structs.replace(profile, variants=variants, cascades=cascades)


def with_accuracies(profile: Profile, accuracies: Mapping[VariantKey, float]) -> Profile:
    """The profile with other accuracies of some variants, and without cascades of these, whose worth nobody knows."""
    if not accuracies:
        return profile
    variants = (msgspec.structs.replace(v, accuracy=accuracies.get(v.key, v.accuracy)) for v in profile.variants)
    cascades = (each for each in profile.cascades if not any(key in accuracies for key in _both(each)))
    return msgspec.structs.replace(profile, variants=tuple(variants), cascades=tuple(cascades))


def as_recorded(profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """The profiles as plans count on them: with the live accuracies that are recorded in any of them."""
    live = {key: each.accuracy for key, each in live_accuracies(profiles.values()).items()}
    return {device: with_accuracies(profile, live) for device, profile in profiles.items()}


def in_catalog_names(profile: Profile, names: Names) -> Profile:
    """The profile as its file has it: of the variants in ``names`` alone, as the catalog calls them."""
    return in_server_names(profile, {VariantKey(key.family, name): key.variant for key, name in names.items()})


def in_server_names(profile: Profile, names: Names) -> Profile:
    """The profile of a file as the server has it: of the variants in ``names`` alone, by these."""
    cascades = (_renamed(each, names) for each in profile.cascades if all(key in names for key in _both(each)))
    variants = (
        msgspec.structs.replace(each, variant=names[each.key]) for each in profile.variants if each.key in names
    )
    return msgspec.structs.replace(profile, variants=tuple(variants), cascades=tuple(cascades))


def written_over(file: Profile, known: Profile) -> Profile:
    """What the file of a profile is to say, once more is ``known``: of what it was measured with, and of nothing else.

    Names are those of the file. What was measured anew since stays as it is there, and so do other variants.
    """
    better = {_measured_as(each): each for each in known.variants}
    variants = tuple(better.get(_measured_as(each), each) for each in file.variants)
    return msgspec.structs.replace(known, variants=variants, cascades=file.cascades)


def with_missing(file: Profile, measured: Profile) -> Profile:
    """What the file of a profile is to say, once a device that is like its own was measured: of what it did not tell.

    Names are those of the file. What it tells of the same models and eval splits stays, where it has times of them.
    """
    told = {_measured_as(each): each for each in file.variants if each.points}
    variants = tuple(told.get(_measured_as(each), each) for each in measured.variants)
    news = {each.key for each in variants if _measured_as(each) not in told}
    others = tuple(each for each in file.variants if each.key not in {each.key for each in variants})
    cascades = tuple(each for each in measured.cascades if news.intersection(_both(each)))
    kept = tuple(each for each in file.cascades if not news.intersection(_both(each)))
    return msgspec.structs.replace(
        file, variants=(*variants, *others), cascades=(*cascades, *kept), network=measured.network or file.network
    )


def _measured_as(measured: VariantProfile) -> tuple[object, ...]:
    return measured.key, measured.model_digest, measured.engine_digest, measured.eval_digest, measured.accuracy


def _current(served: Profile, measured: VariantProfile, name: str) -> VariantProfile:
    renamed = msgspec.structs.replace(measured, variant=name)
    known = served.of(*renamed.key)
    if known is None or known.recorded is UNSET or known.engine_digest != measured.engine_digest:
        return renamed
    return msgspec.structs.replace(
        known, accuracy=measured.accuracy, estimated=measured.estimated, eval_digest=measured.eval_digest,
        live=measured.live,
    )  # fmt: skip


def _both(cascade: CascadeProfile) -> tuple[VariantKey, VariantKey]:
    return VariantKey(cascade.family, cascade.first), VariantKey(cascade.family, cascade.second)


def _renamed(cascade: CascadeProfile, names: Names) -> CascadeProfile:
    first, second = (names[key] for key in _both(cascade))
    return msgspec.structs.replace(cascade, first=first, second=second)
