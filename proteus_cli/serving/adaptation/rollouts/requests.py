"""Requests and responses of version roll-outs: ``/v2/proteus/rollouts``."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from proteus_cli.domain.base import Fraction
from proteus_cli.domain.catalog import VERSION_MARK, VariantKey, is_name
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


class RolloutStart(Struct, frozen=True, forbid_unknown_fields=True):
    """A version that is to be rolled out."""

    family: str
    variant: Annotated[str, Meta(description="Of the catalog, with the new version: `digits-l@2`.")]
    shadow: Annotated[Fraction, Meta(description="Of the answers of the old version, that are compared.")] = 0.0
    canary: Annotated[Sequence[Fraction], Meta(description="Of the queries, step by step.")] = DEFAULT_CANARY
    guard: Annotated[
        tuple[Term, ...], Meta(description="Terms that must hold of the new version, at most one of each metric.")
    ] = DEFAULT_GUARD
    confidence: Fraction = DEFAULT_CONFIDENCE
    auto: Annotated[bool, Meta(description="Steps end once the guard passes; else each waits for `promote`.")] = False
    rollback_window_s: Annotated[
        float,
        Meta(
            ge=0,
            le=MAX_ROLLBACK_WINDOW_S,
            description="So long the old version is kept loaded, after the last step; up to 30 days.",
        ),
    ] = DEFAULT_ROLLBACK_WINDOW_S
    most_queries: Annotated[
        int, Meta(ge=1, description="Answers of the new version after which a step that did not pass ends it.")
    ] = DEFAULT_MOST_QUERIES

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
    """The roll-out goes on."""

    fully: Annotated[bool, Meta(description="To the end at once, and not to the next step alone.")] = False


class RolloutAbortion(Struct, frozen=True, forbid_unknown_fields=True):
    """The roll-out ends, and the old version serves on, or again."""

    reason: Annotated[str, Meta(max_length=500)] = ""


class RolloutsStatus(Struct, frozen=True):
    """The last version roll-out of each family that had one."""

    rollouts: Sequence[RolloutStatus]
    refusal: Annotated[str, Meta(description="Why no version can be rolled out here; empty: one can.")] = ""
