"""Artefacts on disk: written whole or not at all, read strictly, traced by digests of their inputs."""

import contextlib
import errno
import gzip
import hashlib
import os
import platform
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from proteus_cli import __version__
from proteus_cli.domain.base import MadeBy
from proteus_cli.domain.catalog import Catalog, Family, Variant
from proteus_cli.domain.fleet import as_device, base_name, of_type, profile_for
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.errors import ArtefactError
from proteus_cli.external_data import external_files

T = TypeVar("T")

ACCURACY_TOLERANCE = 0.01  # by so much a measured accuracy may miss the declared one

_INPUT = "the file is an input of the plan or profile"

GZIP_MAGIC = b"\x1f\x8b"
_GZIP_LEVEL = 6  # 9 makes a trace 0.4 % smaller, in four times the time


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
    with writing(path) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write ``path`` through, piece by piece; whole or not at all, as `write_bytes` does.

    Where the block raises, ``path`` stays what it was, unless it is a device or a pipe.
    """
    with _saying_where(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as device:
                yield device
            return
        with _beside(path.resolve()) as (file, temporary):
            yield file
            _settle(file)
            temporary.replace(path.resolve())


@contextlib.contextmanager
def writing_text(path: Path) -> Iterator[Callable[[str], object]]:
    """What writes text to ``path`` as `writing` does; gzipped where the name ends in ``.gz``, always the same way."""
    with writing(path) as file:
        if path.suffix != ".gz":
            yield lambda text: file.write(text.encode())
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=_GZIP_LEVEL) as packed:
            yield lambda text: packed.write(text.encode())


def write_in_order(contents: Mapping[Path, bytes]) -> None:
    """Write several files, each whole, and none of them before the contents of all are on the disk.

    A full disk therefore leaves all files as they were. A crash while the files are renamed may leave the first ones
    new and the others old, so a file that refers to others comes after them. Raises `ArtefactError` as `write_bytes`
    does.
    """
    with contextlib.ExitStack() as stack:
        written: list[tuple[Path, Path]] = []
        for path, content in contents.items():
            with _saying_where(path):
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                path.parent.mkdir(parents=True, exist_ok=True)
                file, temporary = stack.enter_context(_beside(path.resolve()))
                file.write(content)
                _settle(file)
                written.append((path, temporary))
        for path, temporary in written:
            with _saying_where(path):
                temporary.replace(path.resolve())


@contextlib.contextmanager
def _saying_where(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtefactError(
            f"Can't write `{path}`: {error.strerror or error}.",
            hint="free some space, or choose another place with `-o` or `--workspace`",
        ) from error


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """An open file beside ``path``, and its name; gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        file = os.fdopen(handle, "wb")
        try:
            yield file, temporary
            file.close()
        finally:
            with contextlib.suppress(OSError):  # what could not be written before can't be now: that has been said
                file.close()
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _settle(file: IO[bytes]) -> None:
    """All that was written is on the disk, for anyone to read."""
    file.flush()
    os.fsync(file.fileno())
    os.fchmod(file.fileno(), 0o644)


def write_json(path: Path, value: object) -> None:
    """Write an artefact as JSON, atomically. Raises `ArtefactError`."""
    write_bytes(path, to_json(value))


def write_text(path: Path, text: str) -> None:
    """Write text as `write_bytes` does; gzipped where the name ends in ``.gz``. The same text gives the same bytes."""
    with writing_text(path) as write:
        write(text)


def read_bytes(path: Path, *, hint: str) -> bytes:
    """The content of a file. Raises `ArtefactError` with ``hint`` where it can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtefactError(f"No file `{path}`.", hint=hint) from None
    except OSError as error:
        raise ArtefactError(f"Can't read `{path}`: {error.strerror or error}.", hint=hint) from error


def read_text(path: Path, *, hint: str) -> str:
    """The UTF-8 text of a file, gzipped or not. Raises `ArtefactError` as `read_bytes` and `text_of` do."""
    return text_of(read_bytes(path, hint=hint), str(path), hint=hint)


def text_of(content: bytes, name: str, *, hint: str) -> str:
    """``content`` as UTF-8 text, unpacked where it is gzipped. Raises `ArtefactError`; ``name`` says of what."""
    try:
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ArtefactError(f"`{name}`, line {line}: not UTF-8 text.", hint=hint) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ArtefactError(f"`{name}` is not whole gzip data: {error}.", hint="fetch or make the file anew") from None


def read_json(path: Path, kind: type[T], *, hint: str) -> T:
    """Read an artefact strictly. Raises `ArtefactError` naming the file and the field."""
    content = read_bytes(path, hint=hint)
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"`{path}` is not a valid {kind.__name__.lower()}: {error}.", hint=hint) from None


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex. Raises `ArtefactError`."""
    return hashlib.sha256(read_bytes(path, hint=_INPUT)).hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of what a TOML or JSON file says, in hex; comments, layout and the order of keys make no difference.

    Raises `ArtefactError` where it can't be read or parsed.
    """
    decode = msgspec.toml.decode if path.suffix == ".toml" else msgspec.json.decode
    try:
        return digest_of(decode(read_bytes(path, hint=_INPUT)))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"Can't parse `{path}`: {error}.", hint=_INPUT) from None


def digest_of(value: object) -> str:
    """The `content_digest` of a file that holds this value."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()


def model_parts(model: Path) -> list[Path]:
    """An ONNX file and the files that hold its weights. Raises `ArtefactError` where one is missing."""
    content = read_bytes(model, hint=f"`{model}` is named in the catalog")
    return [model, *external_files(model, content)]


def model_digest(model: Path) -> str:
    """SHA-256 of the `model_parts`. Raises `ArtefactError` where one is missing."""
    hint = f"`{model}` is named in the catalog"
    hashes = [hashlib.sha256(read_bytes(part, hint=hint)) for part in model_parts(model)]
    return (
        hashes[0].hexdigest()
        if len(hashes) == 1
        else hashlib.sha256(b"".join(part.digest() for part in hashes)).hexdigest()
    )


def parse_catalog(content: bytes, path: Path) -> Catalog:
    """A catalog from TOML, strictly. Raises `ArtefactError`; ``path`` says where it stands."""
    try:
        return msgspec.toml.decode(content, type=Catalog)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = "docs/formats.md describes the catalog; `proteus init` writes an example"
        raise ArtefactError(f"`{path}` is not a valid catalog: {error}.", hint=hint) from None


@dataclass(frozen=True, slots=True)
class Workspace:
    """A directory with ``engines/``, ``profiles/`` and ``plans/``."""

    root: Path

    @property
    def catalog_path(self) -> Path:
        return self.root / "engines" / "catalog.toml"

    @property
    def built_dir(self) -> Path:
        """Engines that were built, by device type."""
        return self.root / "engines" / "built"

    @property
    def profiles_dir(self) -> Path:
        return self.root / "profiles"

    @property
    def plans_dir(self) -> Path:
        return self.root / "plans"

    @property
    def history_dir(self) -> Path:
        """The plans that were in force, each with its record."""
        return self.plans_dir / "history"

    def profile_path(self, device: str) -> Path:
        return self.profiles_dir / f"{device}.json"

    def catalog(self) -> Catalog:
        """Read ``engines/catalog.toml``. Raises `ArtefactError`."""
        hint = "run `proteus init` to make a workspace, or name one with `--workspace`"
        return parse_catalog(read_bytes(self.catalog_path, hint=hint), self.catalog_path)

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

    def profiles_of(self, plan: Plan) -> dict[str, Profile]:
        """The profiles of a plan's devices by id, also of the made-up ones of a what-if fleet.

        Raises `ArtefactError` where a device has no profile and no device of its type has one, `UsageError` where
        those of its type differ.
        """
        types = {device: device_type for device_type, devices in plan.fleet.items() for device in devices}
        return {device: as_device(profile, device) for device, profile in self._stand_ins(types).items()}

    def sources(self, profiles: Mapping[str, Profile]) -> list[Profile]:
        """The profiles on the disk that those (by device id, perhaps made up) came from, each once.

        Raises as `profiles_of` does.
        """
        types = {device: profile.device.type for device, profile in profiles.items()}
        found = {profile.device.id: profile for profile in self._stand_ins(types).values()}
        return list(found.values())

    def profile_paths(self, profiles: Mapping[str, Profile]) -> list[Path]:
        """The files that those profiles (by device id, perhaps made up) came from, each once. Raises as `sources`."""
        return [self.profile_path(profile.device.id) for profile in self.sources(profiles)]

    def _stand_ins(self, types: Mapping[str, str]) -> dict[str, Profile]:
        """The profile on the disk of each device, or else of what it is like; ``types``: device type by id.

        Reads only what the ids name where that is enough, so that a broken profile of another device is no matter.
        """
        here = {path.stem for path in self.profiles_dir.glob("*.json")}
        names = dict.fromkeys(name for device in types for name in (device, base_name(device)) if name in here)
        named = {name: self.profile(name) for name in names}
        found = {device: profile_for(device, device_type, named) for device, device_type in types.items()}
        missing = {types[device]: device for device, profile in found.items() if profile is None}
        by_type = {device_type: self._of_type(device_type, device) for device_type, device in missing.items()}
        return {device: profile if profile is not None else by_type[types[device]] for device, profile in found.items()}

    def _of_type(self, device_type: str, device: str) -> Profile:
        profile = of_type(device_type, self.profiles())
        if profile is None:
            raise ArtefactError(
                f"No profile of `{device}`, nor of any `{device_type}`, in `{self.profiles_dir}`.",
                hint=f"measure it with `proteus profile --device {device}`, or import profiles with `--from-csv`",
            )
        return profile

    def plan_path(self, name: Path) -> Path:
        """Where a plan lies: a path, here or in ``plans/`` or its history, with or without ``.json``."""
        candidates = (name, self.root / name, self.plans_dir / name, self.history_dir / name)
        named = [Path(f"{path}{end}") for path in candidates for end in ("", ".json")]
        return next((path for path in named if os.path.isfile(path)), name)  # noqa: PTH113 - takes any name

    def plan(self, name: Path) -> Plan:
        """The plan at `plan_path`. Raises `ArtefactError`."""
        return read_json(self.plan_path(name), Plan, hint="run `proteus plan --demand RATE` to make a plan")

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


def require_current_models(catalog: Catalog, profile: Profile, workspace: Workspace) -> None:
    """Raise `ArtefactError` where a model, its eval split or its declared accuracy changed after it was profiled.

    Without an ONNX file in the catalog, or with an imported profile, there is no model to compare, only an accuracy.
    """
    for measured in profile.variants:
        family = next((f for f in catalog.families if f.name == measured.family), None)
        variant = family and next((v for v in family.variants if v.name == measured.variant), None)
        if not family or not variant:
            continue  # the catalog no longer offers it: the planner leaves it out
        where = f"`{measured.family}/{measured.variant}` in the profile of `{profile.device.id}`"
        if measured.model_digest is None:
            _require_declared(measured, family, variant, where)
        else:
            hint = f"run `proteus profile --device {profile.device.id}`; it measures only what changed"
            _require_measured(measured, family, variant, workspace, where, hint)


def _require_declared(measured: VariantProfile, family: Family, variant: Variant, where: str) -> None:
    if not is_as_declared(measured.accuracy, family, variant):
        raise ArtefactError(
            f"The accuracy of {where} is {measured.accuracy}; the catalog declares {variant.accuracy}.",
            hint="correct the one that is wrong; a file is imported again with `proteus profile --from-csv`",
        )


def _require_measured(
    measured: VariantProfile, family: Family, variant: Variant, workspace: Workspace, where: str, hint: str
) -> None:
    if variant.onnx is not None and model_digest(workspace.model_path(variant.onnx)) != measured.model_digest:
        raise ArtefactError(f"{where} was measured with another `{variant.onnx}`.", hint=hint)
    eval_path = workspace.eval_path(family)
    if measured.eval_digest != (digest(eval_path) if eval_path is not None else None):
        raise ArtefactError(f"The accuracy of {where} is not that of the eval split in the catalog.", hint=hint)
    if eval_path is None and measured.accuracy != variant.accuracy:
        raise ArtefactError(f"The accuracy of {where} is not the one that the catalog declares.", hint=hint)


def is_as_declared(accuracy: float, family: Family, variant: Variant) -> bool:
    """Whether an imported accuracy is that of the catalog.

    Where the family has an eval split it was probably measured on one like it, so that the declared one is near.
    """
    if family.eval is None:
        return accuracy == variant.accuracy
    return abs(accuracy - variant.accuracy) <= ACCURACY_TOLERANCE
