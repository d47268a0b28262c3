"""A workspace: where its files are, and what they hold."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey
from proteus_cli.domain.device import host_of
from proteus_cli.domain.fleet import as_device, of_type, origins
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.stages.cascade import discriminator_of
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import ARTEFACT, CATALOG, found_in, read_bytes, sha256_of
from proteus_cli.store.catalog_files import parse_catalog, read_labels
from proteus_cli.store.digests import content_digest, model_digest
from proteus_cli.store.files import read_json, remove
from proteus_cli.store.models.exit_chains import ExitChain, chain_digest, chain_file, stage_digests
from proteus_cli.store.models.prepared_models import (
    Preparation,
    prepared,
    prepared_digest,
    prepared_files,
    prepared_name,
)

SHARING = ".sharing"
"""The end of the name, before `.json`, of a file in ``profiles/`` that is no profile."""
_NO_PLAN = "run `proteus plan --demand RATE` to make a plan"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory with ``engines/``, ``profiles/`` and ``plans/``.

    With ``state``, a server writes to that directory instead; the workspace may then be read-only.
    Models that must be prepared go to ``scratch``, where that is given.
    """

    root: Path
    state: Path | None = None
    scratch: Path | None = None

    @contextmanager
    def only_read(self) -> Iterator["Workspace"]:
        """The workspace for what must leave no file: models that it prepares are removed at the end."""
        with TemporaryDirectory(prefix="proteus-") as directory:
            yield replace(self, scratch=Path(directory))

    @property
    def catalog_path(self) -> Path:
        return self.root / "engines" / "catalog.toml"

    @property
    def built_dir(self) -> Path:
        """Engines that were built, by device type."""
        return (self.state or self.root) / "engines" / "built"

    @property
    def profiles_dir(self) -> Path:
        return self.root / "profiles"

    @property
    def plans_dir(self) -> Path:
        return self.root / "plans"

    @property
    def history_dir(self) -> Path:
        """The plans that were in force, each with its record."""
        return (self.state or self.root) / "plans" / "history"

    @property
    def studies_dir(self) -> Path:
        """Results of studies, each as JSON, CSV and a page."""
        return (self.state or self.root) / "studies"

    @property
    def samples_dir(self) -> Path:
        """Requests that were captured, by family."""
        return (self.state or self.root) / "samples"

    @property
    def prepared_dirs(self) -> tuple[Path, ...]:
        """Where models are that take their family's input, by content. Missing ones are made in the last."""
        places = (self.root, self.state, self.scratch)
        return tuple(place / "engines" / "prepared" for place in places if place is not None)

    def profile_path(self, device: str) -> Path:
        """The file of a device's profile."""
        return self.profiles_dir / f"{device}.json"

    def version_profile_path(self, device: str) -> Path:
        """Profiles of versions that were rolled out: the last one of each variant."""
        return self.root / "engines" / "versions" / f"{device}.json"

    def version_answers_path(self, device: str) -> Path:
        """Answers of versions that the catalog does not name: one version of each variant."""
        return self.root / "engines" / "versions" / f"{device}.answers.npz"

    @property
    def conditions_path(self) -> Path:
        """Live conditions, which replace the conditions of the catalog."""
        return (self.state or self.root) / "engines" / "conditions.json"

    @property
    def namings_dir(self) -> Path:
        """The directory of notes about versions that are being named in the catalog, a file for each family."""
        return self.root / "engines" / "naming"

    def naming_path(self, family: str) -> Path:
        """The note that a version of the family is being named in the catalog."""
        return self.namings_dir / f"{family}.json"

    def answers_path(self, device: str) -> Path:
        """Answers of the variants on a device, row by row of their eval splits."""
        return self.profiles_dir / f"{device}.answers.npz"

    def sharing_path(self, device: str) -> Path:
        """The costs of sharing a device, beside its profile."""
        return self.profiles_dir / f"{device}{SHARING}.json"

    def catalog(self) -> Catalog:
        """Read ``engines/catalog.toml``. Raises `ArtefactError`."""
        hint = (
            "run `proteus catalog add FAMILY MODEL.onnx` for a model of your own, or `proteus init` for the sample "
            "models; or name a workspace with `--workspace`"
        )
        return parse_catalog(read_bytes(self.catalog_path, CATALOG, hint=hint), self.catalog_path)

    def model_path(self, onnx: str) -> Path:
        """Where a path of the catalog leads: relative to the catalog."""
        return self.catalog_path.parent / onnx

    def files_of(self, variant: Variant) -> tuple[Path, ...]:
        """The ONNX files that a variant is made of; none where the catalog names none. They need not be there."""
        return tuple(self.model_path(name) for name in variant.files)

    def model_files(self) -> dict[VariantKey, tuple[Path, ...]]:
        """The ONNX files that the catalog names, by variant; they need not be there. Raises `ArtefactError`."""
        named = ((VariantKey(family.name, each.name), self.files_of(each)) for family, each in self.catalog().variants)
        return {key: files for key, files in named if files}

    def loaded_paths(self) -> dict[VariantKey, Path]:
        """The files that are loaded for the variants that the catalog names ONNX files of; these need not be there.

        Raises `ArtefactError`, `BackendUnavailable` as `prepared` does.
        """
        variants = [(family, variant) for family, variant in self.catalog().variants if variant.files]
        return {
            VariantKey(family.name, variant.name): self.loaded_file(family, variant) for family, variant in variants
        }

    def loaded_file(self, family: Family, variant: Variant) -> Path:
        """The file that is loaded for a variant with ONNX files: `loaded_path`, or a `chain_file`.

        Where one of the ONNX files is missing: that one.
        """
        files = self.files_of(variant)
        if not variant.exits:
            return self.loaded_path(family, files[0])
        missing = next((path for path in files if not path.is_file()), None)
        return missing or chain_file(self._chain(family, variant), *self.prepared_dirs)

    def loaded_path(self, family: Family, model: Path) -> Path:
        """The file that is loaded for a model of a family: the model itself, or `prepared` if it is there."""
        preparation = self.preparation(family)
        return prepared(model, preparation, *self.prepared_dirs) if preparation and model.is_file() else model

    def preparation(self, family: Family) -> Preparation:
        """The additions to the models of a family. The file of a discriminator need not be there."""
        discriminator = discriminator_of(family.confidence)
        return Preparation(family.input, None if discriminator is None else self.model_path(discriminator))

    def loaded_digest(self, family: Family, variant: Variant) -> str:
        """The `model_digest` of the `loaded_file`, which is not made for that. Raises as `prepared` does."""
        files = self.files_of(variant)
        missing = next((path for path in files if not path.is_file()), None)
        if missing is not None:
            return model_digest(missing)  # raises
        if variant.exits:
            return chain_digest(self._chain(family, variant), *self.prepared_dirs)
        preparation = self.preparation(family)
        return prepared_digest(files[0], preparation, *self.prepared_dirs) if preparation else model_digest(files[0])

    def unused_prepared(self) -> list[Path]:
        """Prepared files, made here, that no variant of the catalog is loaded from. Raises `ArtefactError`."""
        made = prepared_files(self.prepared_dirs[-1])
        variants = self.catalog().variants if made else ()
        used = {name for family, variant in variants for name in self._prepared_names(family, variant)}
        return [path for path in made if path.name not in used]

    def _prepared_names(self, family: Family, variant: Variant) -> Iterator[str]:
        """The names of the files that are made for a variant whose ONNX files are here."""
        files = self.files_of(variant)
        if not all(path.is_file() for path in files):
            return
        if variant.exits:
            yield self._chain(family, variant).name
        elif files and (preparation := self.preparation(family)):
            yield prepared_name(files[0], preparation)

    def stage_digests(self, family: Family, variant: Variant) -> list[str]:
        """The digests of the loaded stages of a multi-exit variant. Raises as `loaded_digest` does."""
        return stage_digests(self._chain(family, variant), *self.prepared_dirs)

    def _chain(self, family: Family, variant: Variant) -> ExitChain:
        return ExitChain.of(variant, self.files_of(variant), family.confidence, self.preparation(family))

    def loaded_model_of(self, family: Family, variant: Variant, *, to: str, hint: str = "") -> Path:
        """The file that is loaded for a variant. Raises like `files_to` and `prepared`."""
        self.files_to(to, family, variant, hint=hint)
        return self.loaded_file(family, variant)

    def model_of(self, family: Family, variant: Variant, *, to: str) -> Path:
        """The one ONNX file of a variant. Raises like `files_to`, and where the variant is a multi-exit model."""
        file, *others = self.files_to(to, family, variant)
        if others:
            raise ArtefactError(
                f"`{family.name}/{variant.name}` is a multi-exit model, of {1 + len(others)} ONNX files: there is no "
                f"one file to {to}.",
                hint="name a variant that has `onnx` in engines/catalog.toml",
            )
        return file

    def files_to(self, to: str, family: Family, variant: Variant, *, hint: str = "") -> tuple[Path, ...]:
        """The ONNX files of a variant, needed ``to`` do something. Raises `ArtefactError` if one is not there.

        ``hint`` goes on after ``set `onnx` in engines/catalog.toml``.
        """
        files = self.files_of(variant)
        if not files:
            raise ArtefactError(
                f"The catalog names no ONNX file of `{family.name}/{variant.name}`, so there is nothing to {to}.",
                hint=f"set `onnx` in engines/catalog.toml{hint}",
            )
        for path in files:
            if not path.exists():
                raise ArtefactError(f"No model `{path}`.", hint="the catalog names it; put the ONNX file there")
        return files

    def eval_path(self, family: Family) -> Path | None:
        """The file of a family's eval split; None where it has none."""
        return None if family.eval is None else self.model_path(family.eval)

    def labels(self, catalog: Catalog) -> dict[str, tuple[str, ...]]:
        """The names of the classes, by family; only of families that have such names. Raises `ArtefactError`."""
        families = catalog.families
        return {family.name: read_labels(self.model_path(family.labels)) for family in families if family.labels}

    def profiles(self) -> dict[str, Profile]:
        """All profiles by device id, in natural order. Raises `ArtefactError` where there is none or one is broken."""
        hint = "run `proteus profile` to measure this machine's devices"
        devices = sorted(self._profiled(), key=lambda device: (host_of(device), len(device), device))
        if not devices:
            raise ArtefactError(f"No profiles in `{self.profiles_dir}`.", hint=hint)
        return {device: self.profile(device) for device in devices}

    def forget(self, name: str) -> list[str]:
        """Remove the profiles of a device, or of all devices of a host, with what was measured beside them.

        Returns the devices. Raises `ArtefactError` where there is none, or a file cannot be removed.
        """
        known = sorted(self._profiled())
        devices = [device for device in known if name and name in {device, host_of(device)}]
        if not devices:
            raise ArtefactError(
                f"No profile of `{name}` in `{self.profiles_dir}`.", hint=f"there are: {', '.join(known) or 'none'}"
            )
        for device in devices:
            remove(self.answers_path(device))
            remove(self.sharing_path(device))
            remove(self.version_profile_path(device))
            remove(self.version_answers_path(device))
            remove(self.profile_path(device))  # last: it names the device, where another file cannot be removed
        return devices

    def profile(self, device: str) -> Profile:
        """The profile of one device. Raises `ArtefactError`."""
        path = self.profile_path(device)
        if not path.exists():
            known = ", ".join(sorted(self._profiled())) or "none"
            raise ArtefactError(
                f"No profile of `{device}` in `{self.profiles_dir}`.",
                hint=f"there are: {known}; `proteus profile --device ID` measures others",
            )
        profile = read_json(path, Profile, hint=f"run `proteus profile --device {device}` to measure it anew")
        if profile.device.id != device:
            raise ArtefactError(
                f"`{path}` is the profile of `{profile.device.id}`.", hint=f"rename it to {profile.device.id}.json"
            )
        return profile

    def profiles_of(self, plan: Plan) -> dict[str, Profile]:
        """The profiles of a plan's devices by id, also of the made-up devices of a hypothetical fleet.

        Raises `ArtefactError` where neither a device nor any of its type has a profile, and `UsageError` where the
        profiles of its type differ.
        """
        return self.profiles_for({device: kind for kind, devices in plan.fleet.items() for device in devices})

    def profiles_for(self, types: Mapping[str, str]) -> dict[str, Profile]:
        """The profiles of devices by id; ``types`` has their types. Raises as `profiles_of` does."""
        return {device: as_device(profile, device) for device, profile in self._on_disk(types).items()}

    def sources(self, profiles: Mapping[str, Profile]) -> list[Profile]:
        """The profiles on the disk that these profiles (by device id, perhaps made up) came from, each once.

        Raises as `profiles_of` does.
        """
        types = {device: profile.device.type for device, profile in profiles.items()}
        found = {profile.device.id: profile for profile in self._on_disk(types).values()}
        return list(found.values())

    def profile_paths(self, profiles: Mapping[str, Profile]) -> list[Path]:
        """The files of the `sources` of the profiles. Raises as `profiles_of` does."""
        return [self.profile_path(profile.device.id) for profile in self.sources(profiles)]

    def _on_disk(self, types: Mapping[str, str]) -> dict[str, Profile]:
        """For each device (``types``: device type by id) its profile on the disk, else the profile of its type.

        Reads the profiles that the ids name, and others only if these are not enough: a broken profile of another
        device does no harm.
        """
        here = set(self._profiled())
        names = dict.fromkeys(name for device in types for name in origins(device) if name in here)
        named = {name: self.profile(name) for name in names}
        found, by_type = dict[str, Profile](), dict[str, Profile]()
        for device, device_type in types.items():
            likely = (named[name] for name in origins(device) if name in named)
            profile = next((each for each in likely if each.device.type == device_type), None)
            if profile is None and device_type not in by_type:
                by_type[device_type] = self._of_type(device_type, device)
            found[device] = profile or by_type[device_type]
        return found

    def _profiled(self) -> list[str]:
        """The ids of devices with a profile. A host of a cluster has a directory."""
        paths = found_in(self.profiles_dir, "*.json", "*/*.json")
        profiles = (path for path in paths if not path.stem.endswith(SHARING))
        return [path.relative_to(self.profiles_dir).with_suffix("").as_posix() for path in profiles]

    def _of_type(self, device_type: str, device: str) -> Profile:
        profile = of_type(device_type, self.profiles())
        if profile is None:
            raise ArtefactError(
                f"No profile of `{device}`, nor of any `{device_type}`, in `{self.profiles_dir}`.",
                hint=f"measure it with `proteus profile --device {device}`, or import profiles with `--from-csv`",
            )
        return profile

    def plan_path(self, name: Path) -> Path:
        """Where a plan is: a path, or a name in ``plans/`` or its history, with or without ``.json``."""
        candidates = (name, self.root / name, self.plans_dir / name, self.history_dir / name)
        named = [Path(f"{path}{end}") for path in candidates for end in ("", ".json")]
        return next((path for path in named if _is_there(path)), name)

    def plan(self, name: Path) -> Plan:
        """The plan at `plan_path`. Raises `ArtefactError`."""
        return read_json(self.plan_path(name), Plan, hint=_NO_PLAN)

    def plan_digest(self, name: Path) -> str:
        """SHA-256 of the file at `plan_path`, in hex. Raises `ArtefactError`."""
        return sha256_of(self.plan_path(name), ARTEFACT, hint=_NO_PLAN).hex()

    def digests(self, paths: Iterable[Path]) -> dict[str, str]:
        """`content_digest` by path relative to the workspace, for a plan's ``inputs``."""
        return {path.relative_to(self.root).as_posix(): content_digest(path) for path in paths}

    def require_current(self, inputs: Mapping[str, str]) -> None:
        """Raise `ArtefactError` where an input of a plan is gone or no longer says what it said."""
        for name, expected in inputs.items():
            path = self.root / name
            hint = "run `proteus plan` again, so that the plan fits what is here now"
            if Path(name).is_absolute() or ".." in Path(name).parts:  # a plan may come from a client
                raise ArtefactError(f"The plan names `{name}`, which is outside of the workspace.", hint=hint)
            if not path.is_file():
                raise ArtefactError(f"The plan was made from `{name}`, which is gone.", hint=hint)
            if content_digest(path) != expected:
                raise ArtefactError(f"`{name}` has changed since the plan was made from it.", hint=hint)


def _is_there(path: Path) -> bool:
    """Whether a name leads to something that isn't a directory. Reading it says what is wrong with a pipe or device."""
    return os.path.exists(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112 - they take any name
