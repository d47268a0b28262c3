"""Version roll-outs as clients and the workspace know them: ``/v2/proteus/rollouts``, and where versions are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from proteus_cli.domain.base import Fraction
from proteus_cli.domain.catalog import VERSION_MARK, Variant, VariantKey, is_name
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.rollouts import (
    DEFAULT_CANARY,
    DEFAULT_CONFIDENCE,
    DEFAULT_GUARD,
    DEFAULT_MOST_QUERIES,
    DEFAULT_ROLLBACK_WINDOW_S,
    MAX_ROLLBACK_WINDOW_S,
    RolloutSpecification,
    RolloutStatus,
    Term,
)
from proteus_cli.errors import BadRequest, ProteusError
from proteus_cli.progress import Say
from proteus_cli.serving.adaptation.catalog_reading import CatalogFiles, MeasurableDevices


class RolloutStart(Struct, frozen=True, forbid_unknown_fields=True):
    """A version that is to be rolled out: a `variant` of the catalog with the new version, as `digits-l@2`.

    `shadow` is the fraction of the old version's answers that are compared. `canary` has the fraction of the queries,
    step by step. All terms of the `guard` must hold of the new version, at most one of each metric. With `auto`, a step
    ends once the guard passes; else it waits for `promote`. A step that did not pass by `most_queries` answers of the
    new version ends the roll-out. The old version is kept loaded for `rollback_window_s` after the last step, up to 30
    days.
    """

    family: str
    variant: str
    shadow: Fraction = 0.0
    canary: Sequence[Fraction] = DEFAULT_CANARY
    guard: tuple[Term, ...] = DEFAULT_GUARD
    confidence: Fraction = DEFAULT_CONFIDENCE
    auto: bool = False
    rollback_window_s: Annotated[float, Meta(ge=0, le=MAX_ROLLBACK_WINDOW_S)] = DEFAULT_ROLLBACK_WINDOW_S
    most_queries: Annotated[int, Meta(ge=1)] = DEFAULT_MOST_QUERIES

    def plain_and_version(self) -> tuple[VariantKey, str]:
        """The variant of the catalog, and the name of its version. Raises `BadRequest`."""
        name, mark, version = self.variant.partition(VERSION_MARK)
        if not mark or not name or not is_name(version):
            raise BadRequest(f"`{self.variant}` names no version of a variant: write `{name or 'NAME'}{VERSION_MARK}2`")
        return VariantKey(self.family, name), version

    def specification(self, old: str, new: str) -> RolloutSpecification:
        """Between these names of the server. Raises `BadRequest`."""
        try:
            return RolloutSpecification(
                self.family, old, new, self.shadow, tuple(self.canary), self.guard,
                self.confidence, self.auto, self.rollback_window_s, self.most_queries,
            )  # fmt: skip
        except (ProteusError, ValueError) as error:
            raise BadRequest(error.message if isinstance(error, ProteusError) else str(error)) from None


class RolloutPromotion(Struct, frozen=True, forbid_unknown_fields=True):
    """The roll-out goes on to the next step, or `fully`: to the end at once."""

    fully: bool = False


class RolloutAbortion(Struct, frozen=True, forbid_unknown_fields=True):
    """The roll-out ends, and the old version serves on, or again."""

    reason: Annotated[str, Meta(max_length=500)] = ""


class RolloutsStatus(Struct, frozen=True):
    """The last version roll-out of each family that had one; `refusal`: why no version can be rolled out here."""

    rollouts: Sequence[RolloutStatus]
    refusal: str = ""


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
    """Methods may read files for long. Names are as in the catalog file. All raise `ProteusError`."""

    def require_writable(self) -> None:
        """Raise `ArtefactError` where versions can't be measured here, or the catalog can't name them."""
        ...

    def candidate(self, plain: VariantKey, version: str) -> Candidate:
        """The version of that name: the directory beside the one that the catalog names."""
        ...

    async def measure(
        self, candidate: Candidate, possible: MeasurableDevices, types: Mapping[str, str], say: Say
    ) -> Mapping[str, VariantProfile]:
        """The profile of the version on each device, after measuring where that is possible.

        ``types`` has the types of all devices. The workspace stays as it is.
        """
        ...

    def write(self, candidate: Candidate, measured: Mapping[str, VariantProfile]) -> None:
        """Have the catalog name the version, and profiles say what was measured of it.

        The catalog is written last. Where a server ends before the version has ``succeeded``, the next one finds out,
        and undoes all. Raises `ArtefactError` where it does not name the version before it any more.
        """
        ...

    def succeeded(self, candidate: Candidate) -> None:
        """The version that was written serves, by a plan that the next server can resume without undoing it."""
        ...

    def write_back(self, candidate: Candidate) -> bool:
        """Have the catalog name the version before it again; whether it does.

        A catalog that names neither stays as somebody else has made it.
        """
        ...
