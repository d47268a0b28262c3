"""What is told of the catalog of a running server: ``/v2/proteus/catalog``."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.catalog_changes import CatalogChange, Digests

State = Literal["served", "measuring", "failed"]


class CatalogStatus(msgspec.Struct, frozen=True):
    """What is served of the catalog, and what becomes of the last reading of it."""

    catalog: Annotated[Catalog, Meta(description="What plans are made of; names with versions.")]
    digests: Annotated[Digests, Meta(description="By family and variant, the SHA-256 of the model.")]
    state: Annotated[State, Meta(description="Of the last reading: `measuring` what is new; `failed`: not followed.")]
    changes: Annotated[Sequence[CatalogChange], Meta(description="What the last reading changes.")]
    problem: Annotated[str | None, Meta(description="Why the last reading was not followed.")]
    retiring: Annotated[Mapping[str, Sequence[str]], Meta(description="By family, variants that serve for the last.")]
    leaving: Annotated[Sequence[str], Meta(description="Families that are being taken out of service.")]
    read_unix_s: Annotated[float | None, Meta(description="When the catalog was last read; null: at the start.")]
