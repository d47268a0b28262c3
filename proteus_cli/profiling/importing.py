"""Imports a file of profiles into a workspace: checks all of it, then writes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from proteus_cli import store
from proteus_cli.domain.base import FORMAT
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.profiling.csv_file import IMPORTED, ProfileRow, profiles_from
from proteus_cli.store import catalog_text
from proteus_cli.units import parse_assignments, parse_duration

Slos = str | Mapping[str, str]
"""Latency targets as text with their units: one for all families, or by family."""


def parse_slos(text: str) -> Slos:
    """``"300ms"`` or ``"bert=300ms,yolo=100ms"`` → one latency target, or one by family. Raises `UsageError`."""
    if "=" not in text:
        return parse_slo(text)
    return {family: parse_slo(slo or "") for family, slo in parse_assignments(text, "`--slo`").items()}


def parse_slo(text: str) -> str:
    """``"0.3 s"`` → ``"0.3s"``: one latency target. Raises `UsageError`."""
    if parse_duration(text) <= 0:
        raise UsageError(f"The SLO `{text}` is not above zero.", hint="give a latency target, like `300ms`")
    return "".join(text.split())


def import_rows(
    place: store.Workspace, rows: Sequence[ProfileRow], slos: Slos | None, *, name: str, force: bool
) -> list[Profile]:
    """Write a profile per device type of ``rows``, and a catalog where there is none; returns the profiles.

    Writes all files or none. A profile that says the same already keeps its file, so that plans
    made from it stay current. Raises `UsageError` where ``slos`` are missing, or given beside a catalog, and
    `ArtefactError` where the rows of ``name`` don't fit the catalog, or a measured profile stands in the way.
    """
    has_catalog = place.catalog_path.exists()
    if has_catalog and slos is not None:
        raise UsageError(
            f"`{place.catalog_path}` has the SLOs already.", hint="leave out `--slo`, and change `slo` in the catalog"
        )
    if has_catalog:
        _require_in_catalog(place, rows, name)
    catalog = place.catalog() if has_catalog else new_catalog(rows, slos)
    made = {
        device: _with_estimates(profile, catalog) for device, profile in profiles_from(rows, store.made_by()).items()
    }
    current = (
        {} if force else {device: there for device in made if (there := _on_disk(place, made[device])) is not None}
    )
    files = {place.profile_path(device): store.to_json(made[device]) for device in made if device not in current}
    if not has_catalog:
        text = catalog_text.new_text(catalog, made_by="proteus profile --from-csv")
        catalog_text.require_says(text, catalog, place.catalog_path)
        files[place.catalog_path] = text.encode()
    store.write_in_order(files)
    return list((made | current).values())


def _with_estimates(profile: Profile, catalog: Catalog) -> Profile:
    """The profile with accuracies marked that the catalog declares as estimates; one that differs was measured."""
    variants = []
    for each in profile.variants:
        declared = catalog.family(each.family).variant(each.variant)
        is_estimate = declared.estimated and each.accuracy == declared.accuracy
        variants.append(msgspec.structs.replace(each, estimated=is_estimate))
    return msgspec.structs.replace(profile, variants=tuple(variants))


def _on_disk(place: store.Workspace, profile: Profile) -> Profile | None:
    """The profile on the disk if its content is the same. Raises `ArtefactError` if it must not be replaced."""
    path = place.profile_path(profile.device.id)
    if not path.exists():
        return None
    there = place.profile(profile.device.id)
    if there.backend.name != IMPORTED:
        raise ArtefactError(
            f"`{path}` was measured on that device; importing would overwrite it.",
            hint="`--force` overwrites it; another device_type in the file keeps both",
        )
    return there if msgspec.structs.replace(there, made_by=profile.made_by) == profile else None


def _require_in_catalog(place: store.Workspace, rows: Iterable[ProfileRow], name: str) -> None:
    catalog = place.catalog()
    missing = list(dict.fromkeys(_missing(catalog, rows)))
    if missing:
        raise ArtefactError(
            f"`{name}` has what the catalog doesn't have: {', '.join(missing)}.",
            hint="add it to engines/catalog.toml (a variant needs no `onnx`), or leave out those rows",
        )
    for row in rows:
        family = catalog.family(row.family)
        variant = family.variant(row.variant)
        if not store.is_as_declared(row.accuracy, family, variant):
            raise ArtefactError(
                f"`{name}` says that the accuracy of `{family.name}/{variant.name}` is {row.accuracy}; the catalog "
                f"declares {variant.accuracy}.",
                hint="correct the one that is wrong",
            )
    measured = {(row.family, row.variant, row.model_digest) for row in rows if row.model_digest is not None}
    for family_name, variant_name, digest in sorted(measured):
        family = catalog.family(family_name)
        variant = family.variant(variant_name)
        store.require_model(place, family, variant, digest, f"`{family_name}/{variant_name}` in `{name}`")


def _missing(catalog: Catalog, rows: Iterable[ProfileRow]) -> Iterator[str]:
    variants = {family.name: {variant.name for variant in family.variants} for family in catalog.families}
    for row in rows:
        if row.family not in variants:
            yield f"family `{row.family}`"
        elif row.variant not in variants[row.family]:
            yield f"variant `{row.family}/{row.variant}`"


# --- a catalog of what was imported


def new_catalog(rows: Iterable[ProfileRow], slos: Slos | None) -> Catalog:
    """Families and variants in order of first appearance, without models.

    Raises `UsageError` unless all have SLOs, and `ArtefactError` where types differ in the accuracy of a variant.
    """
    accuracies: dict[str, dict[str, float]] = {}
    for row in rows:
        declared = accuracies.setdefault(row.family, {}).setdefault(row.variant, row.accuracy)
        if row.accuracy != declared:
            raise ArtefactError(
                f"The accuracy of `{row.family}/{row.variant}` is {row.accuracy} on `{row.device_type}` and {declared} "
                "elsewhere; a new catalog declares one.",
                hint="give all types the same, or make the catalog first, with an eval split for the family",
            )
    by_family = _by_family(slos, list(accuracies))
    families = (
        Family(
            name=family,
            slo=by_family[family],
            variants=tuple(Variant(name=variant, accuracy=accuracy) for variant, accuracy in variants.items()),
        )
        for family, variants in accuracies.items()
    )
    return Catalog(format=FORMAT, families=tuple(families))


def _by_family(slos: Slos | None, families: Sequence[str]) -> Mapping[str, str]:
    each = ",".join(f"{family}=300ms" for family in families)
    hint = f"give one for all families, `--slo 300ms`, or each its own: `--slo {each}`"
    if slos is None:
        raise UsageError("There is no catalog yet, and a new one needs the families' latency targets.", hint=hint)
    if isinstance(slos, str):
        return dict.fromkeys(families, slos)
    missing = [family for family in families if family not in slos]
    if missing:
        raise UsageError(f"`--slo` names no latency target for `{', '.join(missing)}`.", hint=hint)
    unknown = [family for family in slos if family not in families]
    if unknown:
        raise UsageError(f"`--slo` names `{', '.join(unknown)}`, which the file doesn't have.", hint=hint)
    return slos
