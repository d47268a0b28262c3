"""Where a server finds a new version of a model, has it measured, and has the catalog name it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from proteus_cli.domain.catalog import Variant, VariantKey
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.progress import Say
from proteus_cli.serving.adaptation.catalog.source import CatalogFiles, MeasurableDevices


@dataclass(frozen=True, slots=True)
class Candidate:
    """A new version of the variant ``plain`` of the catalog file: ``before`` it, ``after`` it.

    ``files`` is the catalog as it would be with that version.
    """

    plain: VariantKey
    before: Variant
    after: Variant
    files: CatalogFiles


class VersionSource(Protocol):
    """Methods may read files for long; names are those of the catalog file. All raise `ProteusError`."""

    def require_writable(self) -> None:
        """Raise `ArtefactError` where versions can't be measured here, or the catalog can't name them."""
        ...

    def candidate(self, plain: VariantKey, version: str) -> Candidate:
        """The version of that name: the directory beside the one that the catalog names."""
        ...

    async def measure(
        self, candidate: Candidate, possible: MeasurableDevices, types: Mapping[str, str], say: Say
    ) -> Mapping[str, VariantProfile]:
        """What is known of the version on devices, once it was measured where that is possible.

        ``types`` are those of all devices. The workspace stays as it is.
        """
        ...

    def write(self, candidate: Candidate, measured: Mapping[str, VariantProfile]) -> None:
        """Have the catalog name the version, and profiles say what was measured of it.

        The catalog is written last. Where a server ends before the version has ``succeeded``, the next one finds out,
        and undoes all. Raises `ArtefactError` where it does not name the version before it any more.
        """
        ...

    def succeeded(self, candidate: Candidate) -> None:
        """The version that was written serves, by a plan that the next server can resume: nothing is undone there."""
        ...

    def write_back(self, candidate: Candidate) -> bool:
        """Have the catalog name the version before it again; whether it does.

        A catalog that names neither stays as somebody else has made it.
        """
        ...
