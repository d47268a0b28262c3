"""Artefacts on disk: written whole or not at all, read strictly, traced by digests of their inputs."""

import contextlib
import glob
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from proteus_cli import __version__
from proteus_cli.domain.base import MadeBy
from proteus_cli.domain.catalog import Catalog, Family
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError

T = TypeVar("T")


def made_by() -> MadeBy:
    """This program, host and moment."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return MadeBy(version=__version__, host=platform.node(), time=now)


def to_json(value: object) -> bytes:
    """Indented JSON that ends in a newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all. Raises `ArtefactError`, e.g. on a full disk.

    A link is followed. A device or a pipe, like `/dev/stdout`, is written to and never replaced.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(content)
        else:
            _replace(path.resolve(), content)
    except OSError as error:
        raise ArtefactError(
            f"Can't write `{path}`: {error.strerror or error}.",
            hint="free some space, or choose another place with `-o` or `--workspace`",
        ) from error


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise


def write_json(path: Path, value: object) -> None:
    """Write an artefact as JSON, atomically. Raises `ArtefactError`."""
    write_bytes(path, to_json(value))


def read_bytes(path: Path, *, hint: str) -> bytes:
    """The content of a file. Raises `ArtefactError` with ``hint`` where it can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtefactError(f"No file `{path}`.", hint=hint) from None
    except OSError as error:
        raise ArtefactError(f"Can't read `{path}`: {error.strerror or error}.", hint=hint) from error


def read_json(path: Path, kind: type[T], *, hint: str) -> T:
    """Read an artefact strictly. Raises `ArtefactError` naming the file and the field."""
    content = read_bytes(path, hint=hint)
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"`{path}` is not a valid {kind.__name__.lower()}: {error}.", hint=hint) from None


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex. Raises `ArtefactError`."""
    return hashlib.sha256(read_bytes(path, hint="the file is an input of the plan or profile")).hexdigest()


def model_digest(model: Path) -> str:
    """SHA-256 of an ONNX file and the external data beside it (files whose names start with the model's)."""
    parts = [model, *sorted(path for path in model.parent.glob(f"{glob.escape(model.name)}[._]*") if path.is_file())]
    hashes = [hashlib.sha256(read_bytes(part, hint=f"`{model}` is named in the catalog")) for part in parts]
    return (
        hashes[0].hexdigest()
        if len(hashes) == 1
        else hashlib.sha256(b"".join(part.digest() for part in hashes)).hexdigest()
    )


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory with ``engines/``, ``profiles/`` and ``plans/``."""

    root: Path

    @property
    def catalog_path(self) -> Path:
        return self.root / "engines" / "catalog.toml"

    @property
    def profiles_dir(self) -> Path:
        return self.root / "profiles"

    @property
    def plans_dir(self) -> Path:
        return self.root / "plans"

    def profile_path(self, device: str) -> Path:
        return self.profiles_dir / f"{device}.json"

    def catalog(self) -> Catalog:
        """Read ``engines/catalog.toml``. Raises `ArtefactError`."""
        path = self.catalog_path
        content = read_bytes(path, hint="run `proteus init` to make a workspace, or name one with `--workspace`")
        try:
            return msgspec.toml.decode(content, type=Catalog)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            hint = "docs/formats.md describes the catalog; `proteus init` writes an example"
            raise ArtefactError(f"`{path}` is not a valid catalog: {error}.", hint=hint) from None

    def model_path(self, onnx: str) -> Path:
        """Where a path of the catalog leads: relative to the catalog."""
        return self.catalog_path.parent / onnx

    def eval_path(self, family: Family) -> Path | None:
        return None if family.eval is None else self.model_path(family.eval)

    def profiles(self) -> dict[str, Profile]:
        """All profiles by device id, in natural order. Raises `ArtefactError` where there is none or one is broken."""
        hint = "run `proteus profile` to measure this machine's devices"
        paths = sorted(self.profiles_dir.glob("*.json"), key=lambda path: (len(path.stem), path.stem))
        if not paths:
            raise ArtefactError(f"No profiles in `{self.profiles_dir}`.", hint=hint)
        return {path.stem: self.profile(path.stem) for path in paths}

    def profile(self, device: str) -> Profile:
        """The profile of one device. Raises `ArtefactError`."""
        path = self.profile_path(device)
        profile = read_json(path, Profile, hint=f"run `proteus profile --device {device}` to measure it anew")
        if profile.device.id != device:
            raise ArtefactError(
                f"`{path}` is the profile of `{profile.device.id}`.", hint=f"rename it to {profile.device.id}.json"
            )
        return profile

    def plan(self, name: Path) -> Plan:
        """A plan by path, here or in ``plans/``, with or without ``.json``. Raises `ArtefactError`."""
        candidates = (name, self.root / name, self.plans_dir / name)
        named = [Path(f"{path}{end}") for path in candidates for end in ("", ".json")]
        found = next((path for path in named if os.path.isfile(path)), name)  # noqa: PTH113 - takes any name
        return read_json(found, Plan, hint="run `proteus plan --demand RATE` to make a plan")

    def digests(self, paths: Iterable[Path]) -> dict[str, str]:
        """SHA-256 by path relative to the workspace, for a plan's ``inputs``."""
        return {path.relative_to(self.root).as_posix(): digest(path) for path in paths}

    def require_current(self, inputs: Mapping[str, str]) -> None:
        """Raise `ArtefactError` where an input of a plan is gone or no longer what it was."""
        for name, expected in inputs.items():
            path = self.root / name
            hint = "run `proteus plan` again, so that the plan fits what is here now"
            if not path.is_file():
                raise ArtefactError(f"The plan was made from `{name}`, which is gone.", hint=hint)
            if digest(path) != expected:
                raise ArtefactError(f"`{name}` has changed since the plan was made from it.", hint=hint)


def require_current_models(catalog: Catalog, profile: Profile, workspace: Workspace) -> None:
    """Raise `ArtefactError` where a model, its eval split or its declared accuracy changed after it was profiled."""
    hint = f"run `proteus profile --device {profile.device.id}`; it measures only what changed"
    for measured in profile.variants:
        where = f"`{measured.family}/{measured.variant}` in the profile of `{profile.device.id}`"
        family = next((f for f in catalog.families if f.name == measured.family), None)
        variant = family and next((v for v in family.variants if v.name == measured.variant), None)
        if not variant:
            continue  # the catalog no longer offers it: the planner leaves it out
        if model_digest(workspace.model_path(variant.onnx)) != measured.model_digest:
            raise ArtefactError(f"{where} was measured with another `{variant.onnx}`.", hint=hint)
        eval_path = workspace.eval_path(family) if family is not None else None
        if measured.eval_digest != (digest(eval_path) if eval_path is not None else None):
            raise ArtefactError(f"The accuracy of {where} is not that of the eval split in the catalog.", hint=hint)
        if eval_path is None and measured.accuracy != variant.accuracy:
            raise ArtefactError(f"The accuracy of {where} is not the one that the catalog declares.", hint=hint)
