"""Live conditions that the next server of the workspace goes by, too: ``engines/conditions.json``.

Each is kept with the conditions of the catalog in whose place it counts. Where the catalog says something else, it is
dropped: whoever has changed the catalog since has said what is to count.
"""

import logging
from pathlib import Path

from proteus_cli import store
from proteus_cli.domain.base import FORMAT, MadeBy, Value, require
from proteus_cli.domain.catalog import Catalog, Family, name_in_catalog
from proteus_cli.domain.conditions import Condition
from proteus_cli.errors import ArtefactError
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.conditions")


class CatalogCondition(Value, frozen=True):
    """The condition of a multi-exit variant in the catalog, and its number of exits."""

    exits: int
    stop_when: Condition


class KeptCondition(Value, frozen=True):
    """The live condition of a family, when it came (ISO 8601, UTC), and what the ``catalog`` said then, by variant."""

    stop_when: Condition
    since: str
    catalog: dict[str, CatalogCondition]


class LiveConditionsFile(Value, frozen=True):
    """The live conditions of a workspace, by family."""

    format: int
    made_by: MadeBy
    families: dict[str, KeptCondition]

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")


class KeptConditions:
    """The live conditions that count, by family (``families``), and the file at ``path``; None: there is none."""

    def __init__(self, path: Path | None) -> None:
        self._path, self.families = path, dict[str, KeptCondition]()

    @property
    def has_file(self) -> bool:
        """The next server will know of them."""
        return self._path is not None

    @classmethod
    def restore(cls, path: Path, catalog: Catalog) -> "KeptConditions":
        """Reads the conditions that fit the catalog. Others are dropped, also from the file, and the log says why."""
        kept = cls(path)
        try:
            kept.families = _read(path)
            unfit = kept.unfit(catalog)
            for family in unfit:
                kept.use(family, None)
            for family in unfit:
                kept.write(family)
        except ArtefactError as error:
            log.warning("live conditions that were kept: %s %s", error.message, error.hint)
        return kept

    def unfit(self, catalog: Catalog) -> list[str]:
        """The families whose conditions do not fit the catalog, and are to be dropped; the log says why."""
        found = []
        for name, kept in self.families.items():
            if why := _why_dropped(name, kept, catalog):
                found.append(name)
                text = kept.stop_when
                log.warning("%s: the live condition `%s` is dropped: %s", name, text, why, extra=fields(family=name))
        return found

    def use(self, family: str, condition: KeptCondition | None) -> None:
        """It counts from now on; None: what the catalog says. The file does not know."""
        if condition is None:
            self.families.pop(family, None)
        else:
            self.families[family] = condition

    def write(self, family: str) -> None:
        """Write what counts for a family. Raises `ArtefactError`; then the file is as it was."""
        if self._path is not None:
            others = {name: each for name, each in _read(self._path).items() if name != family}
            _write(self._path, others | {name: each for name, each in self.families.items() if name == family})


def of_catalog(family: Family) -> dict[str, CatalogCondition]:
    """The entries of the catalog for the multi-exit variants of a family; names may have versions."""
    return {
        name_in_catalog(each.name): CatalogCondition(len(each.exits), each.stop_when)
        for each in family.variants
        if each.stop_when is not None
    }


def _why_dropped(name: str, kept: KeptCondition, catalog: Catalog) -> str | None:
    if name not in catalog.names:
        return f"the catalog has no family `{name}` any more"
    said = of_catalog(catalog.family(name))
    for variant, before in kept.catalog.items():
        now = said.get(variant, before)
        if now != before:
            return (
                f"the catalog says of `{variant}`: {now.exits} exits, `{now.stop_when}`; "
                f"it said {before.exits}, `{before.stop_when}`"
            )
    return (
        None if said.keys() & kept.catalog.keys() else "the catalog has none of the variants any more that it was for"
    )


def _read(path: Path) -> dict[str, KeptCondition]:
    if not path.exists():
        return {}
    return store.read_json(
        path, LiveConditionsFile, hint="remove it: the conditions of the catalog count then"
    ).families


def _write(path: Path, families: dict[str, KeptCondition]) -> None:
    if families:
        store.write_json(path, LiveConditionsFile(FORMAT, store.made_by(), families))
    else:
        store.remove(path)
