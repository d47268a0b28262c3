"""The `VersionSource` of a server: versions of models in its workspace."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp

import msgspec

from proteus_cli.domain.catalog import Variant, VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.progress import Say
from proteus_cli.serving.adaptation.catalog_reading import CatalogFiles, MeasurableDevices
from proteus_cli.serving.adaptation.rollout_requests import Candidate
from proteus_cli.serving.workspace.answers import cascades_with, keep_answers, use_answers
from proteus_cli.serving.workspace.catalog import WorkspaceCatalog, model_digests
from proteus_cli.serving.workspace.naming import (
    NamingIntent,
    ProfileChange,
    have_named,
    is_named,
    with_variant,
    with_variant_of,
)
from proteus_cli.serving.workspace.profiles import measure_missing
from proteus_cli.store import Workspace, read_json, remove, write_json, write_text
from proteus_cli.store.catalog_text import with_files, with_outer_paths_from


@dataclass(frozen=True, slots=True)
class WorkspaceVersions:
    """New versions are measured as what is new in the ``catalog`` is."""

    catalog: WorkspaceCatalog
    _intents: dict[VariantKey, NamingIntent] = field(default_factory=dict)

    def require_writable(self) -> None:
        """See `VersionSource`."""
        if not self.catalog.measures:
            raise ArtefactError(
                "This server measures no new versions: its workspace is only read, or its devices are emulated.",
                hint="start it without `--set state` and `--emulate`, and with a `--set catalog-budget`",
            )
        for path in (self._workspace.catalog_path, self._workspace.catalog_path.parent, self._workspace.profiles_dir):
            if not os.access(path, os.W_OK):
                raise ArtefactError(
                    f"Can't write `{path}`, so that the catalog could not name another version.",
                    hint="let the user of the server write the workspace",
                )

    def candidate(self, plain: VariantKey, version: str) -> Candidate:
        """See `VersionSource`."""
        workspace, catalog = self._workspace, self._workspace.catalog()
        before = catalog.family(plain.family).variant(plain.variant)
        if not before.files:
            raise ArtefactError(f"The catalog names no ONNX file of `{plain.family}/{plain.variant}`.")
        after = _with_version(before, version)
        changed = with_variant(catalog, plain.family, after)
        workspace.files_to("roll out", changed.family(plain.family), after)
        models = {
            VariantKey(family.name, variant.name): workspace.loaded_file(family, variant)
            for family, variant in changed.variants
            if variant.files and all(path.is_file() for path in workspace.files_of(variant))
        }
        content = CatalogContent(changed, model_digests(workspace, changed, {}))
        return Candidate(plain, before, after, CatalogFiles(content, models))

    async def measure(
        self, candidate: Candidate, possible: MeasurableDevices, types: Mapping[str, str], say: Say
    ) -> Mapping[str, VariantProfile]:
        """See `VersionSource`."""
        known = await asyncio.to_thread(self._known, candidate, types)
        lacking = possible.only([device.id for device in possible.devices if device.id not in known])
        if not lacking.devices:
            return known
        async with self._copy(candidate) as copy:
            await measure_missing(copy, lacking, self.catalog.budget_s, say)
            return known | await asyncio.to_thread(self._taken_from, copy, candidate, types)

    def _taken_from(self, copy: Workspace, candidate: Candidate, types: Mapping[str, str]) -> dict[str, VariantProfile]:
        """The measurements of a copy of the workspace, which is kept."""
        found = copy.profiles_for(types)
        fit = {device: each for device, profile in found.items() if (each := _fit(profile, candidate)) is not None}
        self._remember(fit, found)
        for device, each in fit.items():
            keep_answers(self._workspace, copy, device, found[device].measured_on, each)
        return fit

    def _known(self, candidate: Candidate, types: Mapping[str, str]) -> dict[str, VariantProfile]:
        """The measurements of the version before, by an earlier roll-out."""
        splits = {
            device: profile.of(*candidate.plain) for device, profile in self._workspace.profiles_for(types).items()
        }
        known: dict[str, VariantProfile] = {}
        for device, of_old in splits.items():
            kept = self._kept(device)
            found = _fit(kept, candidate) if kept is not None else None
            if found is not None and (of_old is None or of_old.eval_digest == found.eval_digest):
                known[device] = found
        return known

    def _remember(self, fit: Mapping[str, VariantProfile], found: Mapping[str, Profile]) -> None:
        """The last version of each variant need not be measured again."""
        for device, each in fit.items():
            kept = self._kept(device)
            others = [other for other in (kept.variants if kept is not None else ()) if other.key != each.key]
            profile = msgspec.structs.replace(found[device], variants=(*others, each), cascades=())
            write_json(self._workspace.version_profile_path(device), profile)

    def _kept(self, device: str) -> Profile | None:
        """The measurements of versions on a device."""
        path = self._workspace.version_profile_path(device)
        if not path.is_file():
            return None
        return read_json(path, Profile, hint="remove the file, and the versions are measured again")

    def write(self, candidate: Candidate, measured: Mapping[str, VariantProfile]) -> None:
        """See `VersionSource`."""
        workspace, plain = self._workspace, candidate.plain
        self._intents.pop(plain, None)
        if not is_named(workspace.catalog(), plain, candidate.before):
            raise ArtefactError(
                f"The catalog names another model of `{plain.family}/{plain.variant}` now.",
                hint="have it read, and roll out the version anew",
            )
        changes = {device: self._change(device, each) for device, each in measured.items() if self._has_profile(device)}
        intent = self._intents[plain] = NamingIntent.of(plain.family, candidate.before, candidate.after, changes)
        write_json(workspace.naming_path(plain.family), intent)
        for device, change in changes.items():
            write_json(workspace.profile_path(device), change.after)
        have_named(workspace, plain, candidate.after)
        for device, change in changes.items():
            use_answers(workspace, device, change.after.of(*plain))

    def succeeded(self, candidate: Candidate) -> None:
        """See `VersionSource`. A written version is known until it is written back, or another version is written."""
        remove(self._workspace.naming_path(candidate.plain.family))

    def write_back(self, candidate: Candidate) -> bool:
        """See `VersionSource`."""
        workspace, plain = self._workspace, candidate.plain
        catalog, intent = workspace.catalog(), self._intents.get(plain)
        is_new_named = intent is not None and is_named(catalog, plain, candidate.after)
        if not is_new_named and not is_named(catalog, plain, candidate.before):  # what it names, others have written
            self._forget(plain)
            return False
        if intent is not None:
            write_json(workspace.naming_path(plain.family), intent)
            for device, change in intent.profiles.items():
                if self._has_profile(device):
                    profile = with_variant_of(workspace.profile(device), change.after, change.before, plain)
                    write_json(workspace.profile_path(device), profile)
            if is_new_named:
                have_named(workspace, plain, candidate.before)
            for device, change in intent.profiles.items():
                use_answers(workspace, device, change.before.of(*plain))
        self._forget(plain)  # after all is written: until then it is tried again
        return True

    def _forget(self, plain: VariantKey) -> None:
        """The written version is undone, or somebody else has changed it by now."""
        if self._intents.pop(plain, None) is not None:
            remove(self._workspace.naming_path(plain.family))

    def _change(self, device: str, measured: VariantProfile) -> ProfileChange:
        """The change of a device's profile for the measurements of a version."""
        profile, key = self._workspace.profile(device), measured.key
        wanted = msgspec.structs.replace(profile, variants=(measured,), cascades=())
        after = with_variant_of(profile, wanted, wanted, key)
        cascades = (*after.cascades, *cascades_with(self._workspace, device, after, key))
        return ProfileChange(profile, msgspec.structs.replace(after, cascades=cascades))

    def _has_profile(self, device: str) -> bool:
        return self._workspace.profile_path(device).is_file()

    @asynccontextmanager
    async def _copy(self, candidate: Candidate) -> AsyncIterator[Workspace]:
        """The workspace as it would be with the version; what is measured there stays there.

        It is made and removed in a thread, as requests are served meanwhile. Where nobody wants it before it is
        made, it is removed then.
        """
        making = asyncio.ensure_future(asyncio.to_thread(self._copied, candidate))
        try:
            yield await asyncio.shield(making)
        finally:
            await asyncio.wait([making])
            if making.exception() is None:
                await asyncio.to_thread(shutil.rmtree, making.result().root)

    def _copied(self, candidate: Candidate) -> Workspace:
        root, copy = self._workspace.root.absolute(), Path(mkdtemp(prefix="proteus-version-"))
        try:
            _link_all(root, copy, apart_from={"engines", "profiles"})
            (copy / "engines").mkdir()
            _link_all(root / "engines", copy / "engines", apart_from={"catalog.toml", "versions", "naming"})
            text = with_files(self._workspace.catalog_path.read_text(), candidate.plain.family, candidate.after)
            write_text(copy / "engines" / "catalog.toml", with_outer_paths_from(text, root / "engines"))
            if self._workspace.profiles_dir.is_dir():
                shutil.copytree(self._workspace.profiles_dir, copy / "profiles")
        except BaseException:
            shutil.rmtree(copy)
            raise
        return Workspace(copy)

    @property
    def _workspace(self) -> Workspace:
        return self.catalog.plans.workspace


def _fit(profile: Profile, candidate: Candidate) -> VariantProfile | None:
    """The entry of the version in a profile."""
    found, digest = profile.of(*candidate.plain), candidate.files.content.digest(candidate.plain)
    return found if found is not None and found.model_digest == digest and found.points else None


def _with_version(variant: Variant, version: str) -> Variant:
    """The variant with the files of another version: in the directory beside, where that is one of a version."""

    def moved(name: str) -> str:
        path = PurePosixPath(name)
        directory = path.parent.parent if path.parent.name.isdecimal() else path.parent
        return str(directory / version / path.name)

    if variant.exits:
        return msgspec.structs.replace(variant, exits=tuple(map(moved, variant.exits)))
    return msgspec.structs.replace(variant, onnx=moved(variant.files[0]))


def _link_all(place: Path, copy: Path, *, apart_from: set[str]) -> None:
    for each in place.iterdir():
        if each.name not in apart_from:
            (copy / each.name).symlink_to(each)
