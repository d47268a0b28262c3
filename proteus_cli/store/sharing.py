"""The costs of sharing a device, in a file beside its profile: `profiles/<device>.sharing.json`."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from msgspec.structs import replace

from proteus_cli.domain.catalog import VariantKey, name_in_catalog, variant_labels
from proteus_cli.domain.fleet import origins
from proteus_cli.domain.interference import MAX_BESIDE, Interference, SharingCost, SharingModel
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.store.digests import digest_of
from proteus_cli.store.files import read_json, write_json
from proteus_cli.store.workspace import Workspace

_PAIR = 2  # `proteus study share` measures all pairs; larger sets are named


@dataclass(frozen=True, slots=True)
class KnownSharing:
    """The current costs of sharing a device, from the file at ``path``.

    ``stale`` variants of the profile have changed since then; ``interference`` is without them.
    """

    path: Path
    interference: Interference
    stale: tuple[VariantKey, ...]

    @property
    def model(self) -> SharingModel:
        """The model of sets of variants, from what was measured of sharing."""
        return SharingModel(self.interference.costs)


def renewal(device: str, variants: Iterable[VariantKey], sets: Iterable[Collection[VariantKey]] = ()) -> str:
    """The command that measures what sharing a device costs these variants, as far as plans count with it.

    ``sets``: of three or more of them, to be measured besides the pairs.
    """
    names = variant_labels(keys := dict.fromkeys(variants))
    listed = ",".join(names[key] for key in keys)
    together = ",".join("+".join(names[key] for key in sorted(each)) for each in sets)
    chosen = f" --sets {together}" if together else ""
    return f"proteus study share --device {device} --variants {listed}{chosen}"


def sharing_digest(measured: VariantProfile) -> str:
    """The digest of what a variant's batches were measured with: its engine or, of an imported profile, its times."""
    return measured.engine_digest or digest_of(measured.points)


def read_sharing(workspace: Workspace, profile: Profile) -> KnownSharing | None:
    """The costs of sharing the device of a profile, from its own file or of a device that it is like; None without one.

    Raises `ArtefactError` where the file is damaged, or of devices of another type.
    """
    devices = dict.fromkeys((*origins(profile.device.id), profile.measured_on))
    path = next((path for path in map(workspace.sharing_path, devices) if path.is_file()), None)
    if path is None:
        return None
    hint = f"remove it, or measure anew: `proteus study share --device {profile.measured_on}`"
    found = read_json(path, Interference, hint=hint)
    if found.device_type != profile.device.type:
        raise ArtefactError(
            f"`{path}` is of devices of type `{found.device_type}`, and `{profile.device.id}` is of type "
            f"`{profile.device.type}`.",
            hint=hint,
        )
    stale = _stale(found, profile)
    return KnownSharing(path, found.without(stale), stale)


def with_sharing(workspace: Workspace, profiles: Mapping[str, Profile]) -> dict[str, Profile]:
    """The profiles, each with what is known of sharing its device. Raises as `read_sharing` does."""
    known: dict[tuple[object, ...], tuple[SharingCost, ...]] = {}
    found = {}
    for device, profile in profiles.items():
        own = [device] if workspace.sharing_path(device).is_file() else []
        place = id(profile.variants), profile.measured_on, *own, *origins(device)[1:]
        if place not in known:
            read = read_sharing(workspace, profile)
            known[place] = read.interference.costs if read is not None else ()
        found[device] = replace(profile, sharing=known[place])
    return found


def sharing_paths(workspace: Workspace, profiles: Iterable[Profile]) -> list[Path]:
    """The files with the costs of sharing the devices of these profiles."""
    read = (read_sharing(workspace, profile) for profile in profiles)
    return list(dict.fromkeys(known.path for known in read if known is not None))


def sharing_gaps(
    workspace: Workspace, profiles: Mapping[str, Profile], *hosted: Mapping[str, Collection[VariantKey]]
) -> Iterator[str]:
    """The unknown costs in plans that put ``hosted`` on their devices, with the command that measures them.

    A line for each kind of devices with a set of variants that was not measured together, if a pair of it was not
    measured either, or no part of it costs anything. A line also for sets that were measured on emulated devices only.
    """
    for (kind, measured_on), together in _shared(profiles, hosted).items():
        alike = next(profile for profile in profiles.values() if profile.measured_on == measured_on)
        known, model = read_sharing(workspace, alike), SharingModel(alike.sharing)
        unknown = (among for among in together if not model.is_measured(among))
        free = [among for among in unknown if model.unmeasured(sorted(among)) or model.is_free(among)]
        if not free and (known is None or not known.interference.emulated):
            continue
        wanted = free or together
        studied = sorted(frozenset().union(*wanted))
        if len(studied) > 1 + MAX_BESIDE:
            wanted, studied = wanted[:1], sorted(wanted[0])
        names = variant_labels(studied)
        sets = [among for among in wanted if _PAIR < len(among) <= 1 + MAX_BESIDE]
        yield (
            f"{', '.join(names[key] for key in studied)} on a {kind}: {_gap(known, model, free)}; "
            f"measure it with `{renewal(measured_on, studied, sets)}`"
        )


def _shared(
    profiles: Mapping[str, Profile], hosted: Iterable[Mapping[str, Collection[VariantKey]]]
) -> dict[tuple[str, str], list[frozenset[VariantKey]]]:
    """The sets of two or more variants, by the type of their device and what it is like."""
    shared: dict[tuple[str, str], list[frozenset[VariantKey]]] = {}
    for device, keys in chain.from_iterable(each.items() for each in hosted):
        profile, among = profiles[device], frozenset(map(_in_catalog, keys))
        if len(among) > 1:
            together = shared.setdefault((profile.device.type, profile.measured_on), [])
            together += [among] if among not in together else []
    return shared


def _gap(known: KnownSharing | None, model: SharingModel, free: Sequence[frozenset[VariantKey]]) -> str:
    """The unknown part in words. ``free``: sets without a known cost: they or some of their pairs were not measured."""
    if not free:
        return "what they cost each other is that of an emulated device, and was not measured"
    if not any(model.unmeasured(sorted(among)) for among in free):
        return "taken to cost each other no time, as no part of them does, and all together were not measured"
    stale = " of the models that there are now" if known is not None and known.stale else ""
    return f"taken to cost each other no time, as not all of it was measured{stale}"


def _in_catalog(key: VariantKey) -> VariantKey:
    return VariantKey(key.family, name_in_catalog(key.variant))


def write_sharing(workspace: Workspace, device: str, interference: Interference) -> Path:
    """Write what sharing costs on a device beside its profile. Raises `ArtefactError`.

    Costs of an emulated device do not replace measured ones.
    """
    path = workspace.sharing_path(device)
    if interference.emulated and path.is_file() and not read_json(path, Interference, hint="remove it").emulated:
        raise ArtefactError(
            f"`{path}` was measured on hardware; what an emulated device takes does not replace it.",
            hint="remove the file, or name another workspace with `--workspace`",
        )
    write_json(path, interference)
    return path


def _stale(found: Interference, profile: Profile) -> tuple[VariantKey, ...]:
    """The variants that the profile no longer has, or has measured with another engine."""
    now = {measured.key: sharing_digest(measured) for measured in profile.variants}
    return tuple(each.key for each in found.variants if now.get(each.key) != each.digest)


def extended(before: Interference, now: Interference) -> Interference:
    """New costs, with earlier ones of other sets, unless these were emulated."""
    if before.emulated != now.emulated:
        return now
    variants = {each.key: each for each in (*before.variants, *now.variants)}
    costs = {cost.place: cost for cost in (*before.costs, *now.costs)}
    return replace(now, variants=tuple(variants.values()), costs=tuple(costs.values()))
