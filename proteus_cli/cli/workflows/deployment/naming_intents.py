"""What is to be written where the catalog names another version of a variant, on the disk before any of it is.

Profiles and the catalog are several files. A server that is killed between two of them leaves profiles of one version
under a catalog that names the other. So the *intent* is written first, whole, and removed once all is written. The next
server finds it and has profiles say what fits the catalog, which is written after them: where it names the version that
was to be left, all is undone, else completed.
"""

import logging

import msgspec

from proteus_cli.cli.workflows.deployment.version_answers import use_answers
from proteus_cli.domain.base import FORMAT, MadeBy, Value, require
from proteus_cli.domain.catalog.catalog import Catalog, Variant, VariantKey
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.store import Workspace, made_by, read_json, remove, write_json

log = logging.getLogger("proteus.rollouts")


class ProfileChange(Value, frozen=True):
    """What the profile of a device says before, and what it is to say."""

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


def is_of(cascade: CascadeProfile, key: VariantKey) -> bool:
    """A variant is one of a cascade."""
    return cascade.family == key.family and key.variant in {cascade.first, cascade.second}


def finish_namings(workspace: Workspace) -> None:
    """Undo or complete what a server that was killed had begun to write, and log it. Raises `ArtefactError`.

    A workspace that is only read stays as it is.
    """
    for path in sorted(workspace.namings_dir.glob("*.json")):
        if workspace.state is not None:
            log.warning("a server was killed while it wrote what `%s` says: start one without `--state`", path)
            continue
        intent = read_json(path, NamingIntent, hint="remove it, then run `proteus profile` and `proteus plan`")
        log.warning(
            "a server was killed while the catalog was to name another version: %s", _finished(workspace, intent)
        )
        remove(path)


def _finished(workspace: Workspace, intent: NamingIntent) -> str:
    catalog, key = workspace.catalog(), intent.key
    changes = intent.profiles
    if is_named(catalog, key, intent.after):
        _use(workspace, key, {device: (each.before, each.after) for device, each in changes.items()})
        return f"it names `{', '.join(intent.after.files)}`, and profiles say so now"
    if is_named(catalog, key, intent.before):
        _use(workspace, key, {device: (each.after, each.before) for device, each in changes.items()})
        return f"it names `{', '.join(intent.before.files)}`, and profiles say so again"
    return f"it names neither, so profiles of `{key.family}/{key.variant}` stay as they are"


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
