"""The `CatalogSource` of a server: the catalog, the models and the profiles of its workspace."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent, Digests, Succession
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ProteusError
from proteus_cli.progress import Say
from proteus_cli.serving.adaptation.catalog_reading import CatalogFiles, MeasurableDevices, Measurements
from proteus_cli.serving.workspace.plans import WorkspacePlans
from proteus_cli.serving.workspace.profiles import measure_missing
from proteus_cli.store import Workspace, is_as_declared
from proteus_cli.store import digest as digest_of_split
from proteus_cli.store.sharing import sharing_paths, with_sharing


@dataclass(slots=True)
class WorkspaceCatalog:
    """Measures what is new for ``budget_s`` on each device; 0: not at all. ``plans`` are made of what it reads."""

    plans: WorkspacePlans
    budget_s: float
    _looked_at: dict[str, Any] = field(default_factory=dict)
    _written_before: Mapping[str, str] = field(default_factory=dict)  # the last measurements were read

    @property
    def measures(self) -> bool:
        """See `CatalogSource`. A read-only workspace cannot take profiles."""
        return self.budget_s > 0 and self.plans.emulation is None and self._workspace.state is None

    def stamp(self) -> object:
        """See `CatalogSource`. Where weights are in files beside a model, only the model's file counts."""
        own = _stamps([self._workspace.catalog_path])
        if own != self._looked_at.get("stamp"):
            self._looked_at.update(stamp=own, named=_named_by(self._workspace))
        return own + _stamps(self._looked_at["named"])

    def read(self) -> CatalogFiles:
        """See `CatalogSource`."""
        return read_catalog(self._workspace, needs_models=self.plans.emulation is None)

    def measurements(self, files: CatalogFiles, types: Mapping[str, str]) -> Measurements:
        """See `CatalogSource`."""
        workspace, self._written_before = self._workspace, dict(self.plans.written)
        found = with_sharing(workspace, workspace.profiles_for(types))
        rules = self.plans.planner.rules
        is_shared = rules is not None and rules.is_resident_set
        known_sharing = sharing_paths(workspace, workspace.sources(found)) if is_shared else []
        inputs = workspace.digests([workspace.catalog_path, *workspace.profile_paths(found), *known_sharing])
        return Measurements(current_profiles(workspace, found, files.content), inputs)

    async def measure(self, lacking: MeasurableDevices, say: Say) -> None:
        """See `CatalogSource`."""
        await measure_missing(self._workspace, lacking, self.budget_s, say)

    def use(self, following: Succession, inputs: Mapping[str, str]) -> None:
        """See `CatalogSource`."""
        self.plans.use_catalog(following.content.catalog, following.names, inputs, self._written_before)

    @property
    def _workspace(self) -> Workspace:
        return self.plans.workspace


def model_digests(workspace: Workspace, catalog: Catalog, profiles: Mapping[str, Profile]) -> Digests:
    """The digests of models that are here; profiles have most of them, and were compared with the files."""
    measured = {each.key: each.model_digest for profile in profiles.values() for each in profile.variants}
    found: Digests = {}
    for family, variant in catalog.variants:
        files = workspace.files_of(variant)
        if files and all(path.is_file() for path in files):
            digest = measured.get(VariantKey(family.name, variant.name)) or workspace.loaded_digest(family, variant)
            found.setdefault(family.name, {})[variant.name] = digest
    return found


def read_catalog(workspace: Workspace, *, needs_models: bool) -> CatalogFiles:
    """The catalog, and the models that are there; all, where they are needed. Raises `ArtefactError`."""
    catalog = workspace.catalog()
    models: dict[VariantKey, Path] = {}
    for family, variant in catalog.variants:
        if needs_models:
            workspace.files_to("run", family, variant)
        files = workspace.files_of(variant)
        if files and all(path.is_file() for path in files):
            models[VariantKey(family.name, variant.name)] = workspace.loaded_file(family, variant)
    content = CatalogContent.served(catalog, model_digests(workspace, catalog, {}))
    return CatalogFiles(content, models, workspace.labels(catalog))


def _named_by(workspace: Workspace) -> list[Path]:
    """The files that the catalog names; none where it is wrong."""
    try:
        catalog = workspace.catalog()
    except ProteusError:  # whoever reads it is told
        return []
    by_family = (
        path
        for each in catalog.families
        for path in (workspace.eval_path(each), workspace.preparation(each).discriminator)
    )
    return [
        *(path for _, variant in catalog.variants for path in workspace.files_of(variant)),
        *(path for path in by_family if path is not None),
    ]


def _stamps(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            found.append((str(path), -1, -1))
        else:
            found.append((str(path), status.st_size, status.st_mtime_ns))
    return found


def _split_digests(workspace: Workspace, catalog: Catalog) -> dict[str, str | None]:
    """By family, the digest of its eval split."""
    paths = {family.name: workspace.eval_path(family) for family in catalog.families}
    return {family: None if path is None else digest_of_split(path) for family, path in paths.items()}


def current_profiles(
    workspace: Workspace, profiles: Mapping[str, Profile], content: CatalogContent
) -> dict[str, Profile]:
    """The profiles with what was measured of the models, the eval splits and the accuracies that there are now."""
    splits = _split_digests(workspace, content.catalog)
    return {device: _current(profile, content, splits) for device, profile in profiles.items()}


def _current(profile: Profile, content: CatalogContent, splits: Mapping[str, str | None]) -> Profile:
    variants = {VariantKey(f.name, v.name): (f, v) for f, v in content.catalog.variants}
    current = tuple(
        measured
        for measured in profile.variants
        if measured.key in variants and _is_current(measured, *variants[measured.key], content, splits)
    )
    known = {measured.key for measured in current}
    cascades = tuple(
        each
        for each in profile.cascades
        if VariantKey(each.family, each.first) in known and VariantKey(each.family, each.second) in known
    )
    return msgspec.structs.replace(profile, variants=current, cascades=cascades)


def _is_current(
    measured: VariantProfile,
    family: Family,
    variant: Variant,
    content: CatalogContent,
    splits: Mapping[str, str | None],
) -> bool:
    found = content.digest(measured.key)
    is_same_model = measured.model_digest == found or (found is None and not variant.files)
    if measured.is_imported:
        is_same_model = is_same_model or found is None or measured.model_digest is None
        return is_same_model and is_as_declared(measured.accuracy, family, variant)
    if measured.eval_digest is None:
        return is_same_model and measured.accuracy == variant.accuracy
    return is_same_model and measured.eval_digest == splits[family.name]
