"""Live conditions that the next server of the workspace goes by, too: ``engines/conditions.json``.

Each is kept with the conditions of the catalog in whose place it counts. A server that finds another catalog by then
drops it: whoever has changed the catalog since has said what is to count.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from proteus_cli import store
from proteus_cli.domain.base import FORMAT, MadeBy, Value, require
from proteus_cli.domain.catalog.catalog import Catalog, Family, name_in_catalog
from proteus_cli.domain.conditions.parser import parse
from proteus_cli.errors import ArtefactError
from proteus_cli.serving.logs import fields

log = logging.getLogger("proteus.conditions")


class CatalogCondition(Value, frozen=True):
    """What the catalog says of a multi-exit variant with so many ``exits``."""

    exits: int
    stop_when: str


class KeptCondition(Value, frozen=True):
    """The live condition of a family, when it came (ISO 8601, UTC), and what the ``catalog`` said then, by variant."""

    stop_when: str
    since: str
    catalog: dict[str, CatalogCondition]

    def __post_init__(self) -> None:
        parse(self.stop_when)


class LiveConditionsFile(Value, frozen=True):
    """The live conditions of a workspace, by family."""

    format: int
    made_by: MadeBy
    families: dict[str, KeptCondition]

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")


class KeptConditions:
    """The file at ``path``; ``restored`` are the conditions of before, by family, that count again."""

    def __init__(self, path: Path, restored: Mapping[str, KeptCondition]) -> None:
        self._path, self.restored = path, restored

    @classmethod
    def restore(cls, path: Path, catalog: Catalog) -> "KeptConditions":
        """With those that fit the catalog. Others are dropped, also from the file, and the log says why."""
        found: dict[str, KeptCondition] = {}
        try:
            found = _read(path)
            dropped = {name: why for name, kept in found.items() if (why := _why_dropped(name, kept, catalog))}
            for name, why in dropped.items():
                text = found.pop(name).stop_when
                log.warning("%s: the live condition `%s` is dropped: %s", name, text, why, extra=fields(family=name))
            if dropped:
                _write(path, found)
        except ArtefactError as error:
            log.warning("live conditions that were kept: %s %s", error.message, error.hint)
        return cls(path, found)

    def keep(self, family: str, condition: KeptCondition | None) -> None:
        """For the next server; None: it goes by the catalog. Raises `ArtefactError`, and has kept nothing then."""
        kept = {name: each for name, each in _read(self._path).items() if name != family}
        _write(self._path, kept if condition is None else kept | {family: condition})


def of_catalog(family: Family) -> dict[str, CatalogCondition]:
    """What the catalog says of the multi-exit variants of a family, which may have versions in their names."""
    return {
        name_in_catalog(each.name): CatalogCondition(len(each.exits), str(parse(each.stop_when or "")))
        for each in family.variants
        if each.exits
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
