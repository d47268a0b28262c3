"""The intent to have the catalog name another version of a variant, written before the change itself.

Profiles and the catalog are several files. A server that is killed between two of them leaves profiles of one version
under a catalog that names the other. Until the version serves, there is no plan for the written files either, with
which the next server could start. Therefore the *intent* is written first, whole, and removed once the version serves
by a plan that is on the disk. A server that finds one at its start puts catalog and profiles back as they were. On the
way back to the version before, the intent stays until all is written, so the next server can complete it.
"""

import logging

import msgspec

from proteus_cli.domain.base import FORMAT, MadeBy, Value, require
from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.serving.workspace.answers import use_answers
from proteus_cli.store import Workspace, made_by, read_json, remove, write_json, write_text
from proteus_cli.store.catalog_text import require_says, with_files

log = logging.getLogger("proteus.rollouts")


class ProfileChange(Value, frozen=True):
    """The entry of a variant in the profile of a device, before and after."""

    before: Profile
    after: Profile


class NamingIntent(Value, frozen=True):
    """The catalog is to name ``after`` in place of ``before``, or ``before`` again; ``profiles`` by device."""

    format: int
    made_by: MadeBy
    family: str
    before: Variant
    after: Variant
    profiles: dict[str, ProfileChange]

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")

    @property
    def key(self) -> VariantKey:
        return VariantKey(self.family, self.before.name)

    @classmethod
    def of(cls, family: str, before: Variant, after: Variant, profiles: dict[str, ProfileChange]) -> "NamingIntent":
        return cls(FORMAT, made_by(), family, before, after, profiles)


def is_named(catalog: Catalog, key: VariantKey, variant: Variant) -> bool:
    """Whether the catalog names the files of this version, and not what somebody has made of it meanwhile."""
    files = {VariantKey(family.name, each.name): each.files for family, each in catalog.variants}
    return files.get(key) == variant.files


def with_variant_of(profile: Profile, was: Profile, wanted: Profile, key: VariantKey) -> Profile:
    """The profile with what it is ``wanted`` to say of a variant; all of that where it is as it ``was``."""
    if profile == was:
        return wanted
    others = tuple(each for each in profile.variants if each.key != key)
    cascades = tuple(each for each in profile.cascades if not is_of(each, key))
    own = tuple(each for each in wanted.variants if each.key == key)
    own_cascades = tuple(each for each in wanted.cascades if is_of(each, key))
    return msgspec.structs.replace(profile, variants=(*others, *own), cascades=(*cascades, *own_cascades))


def have_named(workspace: Workspace, plain: VariantKey, variant: Variant) -> None:
    """Have the catalog name the files of a variant. Raises `ArtefactError`; then it stays as it is."""
    path = workspace.catalog_path
    text = with_files(path.read_text(), plain.family, variant)
    require_says(text, with_variant(workspace.catalog(), plain.family, variant, only_files=True), path)
    write_text(path, text)


def with_variant(catalog: Catalog, family: str, variant: Variant, *, only_files: bool = False) -> Catalog:
    """The catalog with another variant in the place of the one of that name; ``only_files``: with its files."""

    def changed(each: Variant) -> Variant:
        if each.name != variant.name:
            return each
        return msgspec.structs.replace(each, onnx=variant.onnx, exits=variant.exits) if only_files else variant

    def of_family(each: Family) -> Family:
        return msgspec.structs.replace(each, variants=tuple(map(changed, each.variants)))

    families = tuple(of_family(each) if each.name == family else each for each in catalog.families)
    return msgspec.structs.replace(catalog, families=families)


def is_of(cascade: CascadeProfile, key: VariantKey) -> bool:
    """A variant is one of a cascade."""
    return cascade.family == key.family and key.variant in {cascade.first, cascade.second}


def undo_namings(workspace: Workspace) -> None:
    """Undo what a server had written that ended before a version served, and log it. Raises `ArtefactError`.

    A workspace that is only read stays as it is.
    """
    for path in sorted(workspace.namings_dir.glob("*.json")):
        if workspace.state is not None:
            log.warning("a server ended while it wrote what `%s` says: start one without `--set state`", path)
            continue
        intent = read_json(path, NamingIntent, hint="remove it, then run `proteus profile` and `proteus plan`")
        log.warning("a server ended while the catalog was to name another version: %s", _undone(workspace, intent))
        remove(path)


def _undone(workspace: Workspace, intent: NamingIntent) -> str:
    """The files that the catalog names now. It is written last: where it was not reached, all is tried again."""
    catalog, key = workspace.catalog(), intent.key
    is_after = is_named(catalog, key, intent.after)
    if not is_after and not is_named(catalog, key, intent.before):
        return f"it names neither, so profiles of `{key.family}/{key.variant}` stay as they are"
    _use(workspace, key, {device: (each.after, each.before) for device, each in intent.profiles.items()})
    if is_after:
        have_named(workspace, key, intent.before)
    return f"it names `{', '.join(intent.before.files)}`{' again' if is_after else ''}, and profiles say so again"


def _use(workspace: Workspace, key: VariantKey, changes: dict[str, tuple[Profile, Profile]]) -> None:
    """Have profiles say what is wanted of a variant where they say of its model what they said before."""
    for device, (was, wanted) in changes.items():
        path = workspace.profile_path(device)
        if path.is_file():
            profile = workspace.profile(device)
            if _model(profile, key) == _model(was, key):
                profile = with_variant_of(profile, was, wanted, key)
                write_json(path, profile)
            use_answers(workspace, device, profile.of(*key))


def _model(profile: Profile, key: VariantKey) -> str | None:
    measured = profile.of(*key)
    return None if measured is None else measured.model_digest
