"""The catalog that is served now: one object, which all who need it look at."""

from dataclasses import dataclass

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.catalog_changes import CatalogContent


@dataclass(slots=True)
class ServedCatalog:
    """Names of variants may have versions (`domain/catalog_changes.py`). `LiveCatalog` replaces the ``content``."""

    content: CatalogContent

    @property
    def catalog(self) -> Catalog:
        return self.content.catalog
