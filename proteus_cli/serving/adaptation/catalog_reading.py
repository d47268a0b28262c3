"""The catalog as a server reads it, and the conditions under which a running server can follow it."""

import asyncio
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, Self

import msgspec

from proteus_cli.domain.catalog import Catalog, VariantKey
from proteus_cli.domain.catalog_changes import CatalogChange, CatalogContent, Digests, Succession
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError, Conflict
from proteus_cli.progress import Say
from proteus_cli.serving.devices.hardware import Hardware
from proteus_cli.serving.devices.remote.sessions.session import AgentSession
from proteus_cli.serving.devices.signatures import signature_of, signature_of_file, signature_or_stub
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.families import FamilyFiles, ServedFamily


@dataclass(slots=True)
class ServedCatalog:
    """Names of variants may have versions (`domain/catalog_changes.py`). `LiveCatalog` replaces the ``content``."""

    content: CatalogContent

    @property
    def catalog(self) -> Catalog:
        return self.content.catalog


@dataclass(frozen=True, slots=True)
class CatalogFiles:
    """The catalog as its file has it now, and the files that are loaded for its variants, where there are any.

    ``labels`` are names of classes, by family; only of some families.
    """

    content: CatalogContent
    models: Mapping[VariantKey, Path]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurements:
    """The profiles of devices, with what is current alone, and the digests of the files that plans are made of."""

    profiles: Mapping[str, Profile]
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MeasurableDevices:
    """Devices that may be measured during service, and the sessions with the agents of remote ones, by host."""

    devices: Sequence[Device]
    sessions: Mapping[str, AgentSession]

    def only(self, devices: Container[str]) -> Self:
        """The devices with these ids."""
        return replace(self, devices=[device for device in self.devices if device.id in devices])


class CatalogSource(Protocol):
    """Methods may read files for long. Names are as in the catalog file."""

    @property
    def measures(self) -> bool:
        """Whether variants without a profile are measured."""
        ...

    def stamp(self) -> object:
        """A value that differs once the catalog, or a model that it names, may have changed. Quick: no file is read."""
        ...

    def read(self) -> CatalogFiles:
        """Raises `ProteusError`."""
        ...

    def measurements(self, files: CatalogFiles, types: Mapping[str, str]) -> Measurements:
        """The known measurements of devices, whose types are ``types``. Raises `ProteusError`."""
        ...

    async def measure(self, lacking: MeasurableDevices, say: Say) -> None:
        """Measure what these lack, in the time that they have left.

        Raises `ProteusError` if the devices of this machine can't be measured.
        """
        ...

    def use(self, following: Succession, inputs: Mapping[str, str]) -> None:
        """Plans are made of that from now on. Quick: no file is read."""
        ...


State = Literal["served", "measuring", "failed"]


class CatalogStatus(msgspec.Struct, frozen=True):
    """The catalog that plans are made of, with names of versions, and the SHA-256 `digests` of its models.

    The last reading is in the `state` `measuring` new variants, `served`, or `failed`: it is not followed because of
    the `problem`. It has the `changes`, and was at `read_unix_s`; null: at the start. `retiring` has the variants that
    serve for the last, by family. Families in `leaving` are being taken out of service.
    """

    catalog: Catalog
    digests: Digests
    state: State
    changes: Sequence[CatalogChange]
    problem: str | None
    retiring: Mapping[str, Sequence[str]]
    leaving: Sequence[str]
    read_unix_s: float | None


FIXED = {"input", "confidence"}
"""The fields of a family that stay as they were when the family was new."""


@dataclass(frozen=True, slots=True)
class ReadCatalog:
    """A catalog that was read, the way to it from the catalog that was ``served`` then, and its families.

    Version roll-outs have changed the families in ``rolled_out``.
    """

    files: CatalogFiles
    served: CatalogContent
    following: Succession
    families: Mapping[str, FamilyFiles]
    rolled_out: frozenset[str]


async def read_families(
    following: Succession, files: CatalogFiles, hardware: Hardware, plane: DataPlane
) -> dict[str, FamilyFiles]:
    """The families of a catalog that can be followed; may read models.

    Raises `Conflict` if the change needs a new start, or a family comes back as another one before it is gone.
    Raises `ArtefactError` if a model takes or gives other tensors than its family, or as `FamilyFiles` does.
    """
    if not hardware.takes_variants and following.changes:
        raise Conflict("devices that are emulated in other processes know the variants of the start alone")
    for change in following.changes:
        if change.family and not change.variant and FIXED.intersection(change.what.split(", ")):
            raise Conflict(
                f"{change}: that of a family stays as it is while the family is served",
                hint="give the family another name, or start the server anew",
            )
    present, known = dict(plane.families.by_name), set(plane.fleet.loader.models)
    return await asyncio.to_thread(_read_families, following, files, hardware, present, known)


def _read_families(
    following: Succession,
    files: CatalogFiles,
    hardware: Hardware,
    present: Mapping[str, ServedFamily],
    known: Collection[VariantKey],
) -> dict[str, FamilyFiles]:
    new, found = _new_families(following), dict[str, FamilyFiles]()
    for plain, family in zip(files.content.catalog.families, following.content.catalog.families, strict=True):
        name, before = family.name, present.get(family.name)
        labels = tuple(files.labels.get(name, ()))
        if before is not None and name not in new:
            found[name] = FamilyFiles(family, before.signature, labels, name in hardware.stubs)
            continue
        if hardware.is_emulated:
            signature, is_stub = signature_or_stub(plain, files.models)
        else:
            signature, is_stub = signature_of(plain, files.models), False
        found[name] = FamilyFiles(family, signature, labels, is_stub)
        if before is not None and not _is_as_before(found[name], before):
            raise Conflict(f"`{name}` takes or gives other tensors than before, and is not gone yet: try again")
    for (family_name, variant), name in following.names.items() if not hardware.is_emulated else ():
        key, model = VariantKey(family_name, name), files.models[VariantKey(family_name, variant)]
        if key not in known and not signature_of_file(model, key).fits(found[family_name].signature):
            raise ArtefactError(
                f"`{variant}` takes or gives other tensors than the rest of family `{family_name}`.",
                hint="queries of a family must fit each of its variants",
            )
    return found


def require_successors(following: Succession, measured: Measurements, served: Mapping[str, Profile]) -> None:
    """Raise `ArtefactError` if no device has a profile of a successor of what serves, or of a new family."""
    before, now = _profiled(served.values()), _profiled(measured.profiles.values())
    known = {plain for plain, name in following.names.items() if plain in now or (plain.family, name) in before}
    changed = {VariantKey(each.family, each.variant) for each in following.changes if each.kind == "changed"}
    lacking = ({key.family for key in before} | _new_families(following)) - {key.family for key in known}
    for key in following.names.keys() - known:
        if key in changed or key.family in lacking:
            raise ArtefactError(
                f"No device has a profile of `{key.family}/{key.variant}` as it is now.",
                hint="run `proteus profile`, and have the catalog read again; what serves goes on until then",
            )


def _new_families(following: Succession) -> set[str]:
    return {change.family for change in following.changes if change.kind == "new" and not change.variant}


def _is_as_before(now: FamilyFiles, before: ServedFamily) -> bool:
    fixed = now.family.input, now.family.confidence
    return (now.is_stub or fixed == (before.image, before.confidence)) and now.signature.fits(before.signature)


def _profiled(profiles: Iterable[Profile]) -> set[VariantKey]:
    return {each.key for profile in profiles for each in profile.variants if each.points}
