"""Conditions of families that clients change while they are served: ``PATCH /v2/proteus/families/NAME``.

A live condition replaces ``stop_when`` of the catalog for all multi-exit variants of the family, from the next batch
on. The journal records it like a plan by hand: the plan in force begins anew, for that reason, and so has an effect of
its own. The condition is kept in ``engines/conditions.json``, with the conditions of the catalog that it replaces. The
next server uses it, and says so in the reason of its first plan. If the catalog says something else by then, the
condition is dropped: the last change counts.
"""

import asyncio
import logging
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from proteus_cli import store
from proteus_cli.control.decision import HostedVariant
from proteus_cli.domain.base import FORMAT, MadeBy, Value, require
from proteus_cli.domain.catalog import Catalog, Family, Variant, name_in_catalog
from proteus_cli.domain.conditions import Condition, Metric
from proteus_cli.domain.plan import Plan
from proteus_cli.errors import ArtefactError, Conflict, NotReady
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.control_loop import ControlLoop
from proteus_cli.serving.json_bodies import decoded, refusing
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.families import LEAVING

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
        self.path, self.families = path, dict[str, KeptCondition]()

    @classmethod
    def restore(cls, path: Path, catalog: Catalog) -> "KeptConditions":
        """Reads the conditions that fit the catalog. Others are dropped, also from the file, and the log says why."""
        kept = cls(path)
        try:
            kept.families = _read(path)
            for family in kept.drop_unfit(catalog):
                kept.write(family)
        except ArtefactError as error:
            log.warning("live conditions that were kept: %s %s", error.message, error.hint)
        return kept

    def drop_unfit(self, catalog: Catalog) -> list[str]:
        """Drop the conditions that do not fit the catalog, and return their families; the log says why."""
        found = []
        for name, kept in list(self.families.items()):
            if why := _why_dropped(name, kept, catalog):
                found.append(name)
                del self.families[name]
                text = kept.stop_when
                log.warning("%s: the live condition `%s` is dropped: %s", name, text, why, extra=fields(family=name))
        return found

    def write(self, family: str) -> None:
        """Write the present state of a family. Raises `ArtefactError`; then the file is as it was."""
        if self.path is None:
            return
        families = {name: each for name, each in _read(self.path).items() if name != family}
        families |= {name: each for name, each in self.families.items() if name == family}
        if families:
            store.write_json(self.path, LiveConditionsFile(FORMAT, store.made_by(), families))
        else:
            store.remove(self.path)


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
    hint = "remove it: the conditions of the catalog count then"
    return store.read_json(path, LiveConditionsFile, hint=hint).families


LONGEST_BODY = 16_384


class ConditionChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A live condition for all multi-exit variants of a family; null restores the conditions of the catalog."""

    stop_when: Condition | None


class ConditionException(msgspec.Struct, frozen=True):
    """Why a live condition does not count on a host as it is written."""

    variant: str
    device: str
    why: str


class FamilyConditions(msgspec.Struct, frozen=True):
    """The conditions of a family in force: `variants` has the condition of each multi-exit variant.

    `stop_when` is the live condition; null: there is none. A client has changed it at `since` (ISO 8601, UTC). Its
    `origin` is a `request` to this server, or it was `kept` from a server before it. `exceptions`: hosts on which it
    does not count. `not_kept`: why the next server of this workspace will not use it.
    """

    family: str
    stop_when: Condition | None
    since: str | None
    origin: Literal["request", "kept"] | None
    variants: dict[str, Condition]
    exceptions: tuple[ConditionException, ...] = ()
    not_kept: str | None = None


class LiveConditions:
    """The live conditions of all families. Changes are ``kept`` for the next server."""

    def __init__(
        self,
        plane: DataPlane,
        control_loop: ControlLoop,
        served: ServedCatalog,
        kept: KeptConditions,
    ) -> None:
        self._plane, self._controller, self._control_loop = plane, plane.controller, control_loop
        self._served = served
        self._changing = asyncio.Lock()  # conditions are put in force in the order in which they came
        self._keeping = asyncio.Lock()  # and are written, even if their clients have left
        self._kept, self._not_kept = kept, dict[str, str]()  # why not, by family
        self._requested = set[str]()  # families whose condition a client of this server has changed

    def of(self, family: str) -> FamilyConditions:
        """The conditions of a family that is served. Raises `NotReady` where the family leaves."""
        live, kept = self._controller.dispatch.stop_when.get(family), self._kept.families.get(family)
        own = ((each.name, each.stop_when) for each in self._variants(family))
        exceptions: tuple[ConditionException, ...] = ()
        if live is not None:
            found = [(host, _exception(host, live.metrics)) for host in self._with_exits(family)]
            exceptions = tuple(ConditionException(host.variant, host.device, why) for host, why in found if why)
        return FamilyConditions(
            family,
            live,
            since=None if kept is None else kept.since,
            origin=None if kept is None else "request" if family in self._requested else "kept",
            variants={name: live or condition for name, condition in own if condition is not None},
            exceptions=exceptions,
            not_kept=self._not_kept.get(family),
        )

    async def catalog_changed(self) -> None:
        """Another catalog is served: conditions that do not fit it are dropped."""
        async with self._changing:
            for family in self._kept.drop_unfit(self._served.catalog):
                self._use(family, None)
                await self._keep(family)

    async def from_client(self, family: str, body: bytes | bytearray) -> FamilyConditions:
        """Change the condition of a family of the catalog. Raises `RequestError`, without any change."""
        self._plane.lifecycle.require_ready()
        change = decoded(body, ConditionChange, LONGEST_BODY, "a change of a condition")
        async with self._changing:
            condition = change.stop_when
            self._require_use(family, condition)
            if condition != self._controller.dispatch.stop_when.get(family):
                await self._put_in_force(family, condition)
                self._requested.add(family)
                self._kept.families.pop(family, None)
                if condition is not None:
                    now = datetime.now(UTC).isoformat(timespec="seconds")
                    said = of_catalog(self._served.catalog.family(family))
                    self._kept.families[family] = KeptCondition(condition, now, said)
                await asyncio.shield(self._keep(family))  # the condition counts even if the client leaves now
            elif family in self._not_kept:
                await asyncio.shield(self._keep(family))
            return self.of(family)

    async def _keep(self, family: str) -> None:
        """Keep the present state for the next server; where that fails, the log and the answer say so."""
        if self._kept.path is None:
            self._not_kept[family] = "this server was started with `--set resume=false`"
            return
        try:
            async with self._keeping:
                await asyncio.to_thread(self._kept.write, family)
        except ArtefactError as error:
            self._not_kept[family] = error.message
            log.warning("%s: the condition is not kept: %s", family, error.message, extra=fields(family=family))
        else:
            self._not_kept.pop(family, None)

    async def _put_in_force(self, family: str, condition: Condition | None) -> None:
        """Change the condition once no plan is being changed; where that fails, it is again what it was."""
        with ExitStack() as undo:

            def changed() -> Plan:
                self._require_use(family, condition)  # another plan or catalog may have come into force meanwhile
                undo.callback(self._use, family, self._controller.dispatch.stop_when.get(family))
                self._use(family, condition)
                return self._controller.plan

            says = "as the catalog says" if condition is None else f"when {condition}"
            with refusing("the plan can't be put in force anew: "):
                await self._control_loop.redeploy(changed, f"{family} stops {says}", "request")
            undo.pop_all()

    def _use(self, family: str, condition: Condition | None) -> None:
        self._controller.dispatch.stop_when.pop(family, None)
        if condition is not None:
            self._controller.dispatch.stop_when[family] = condition

    def _variants(self, family: str) -> list[Variant]:
        if family not in self._served.catalog.names:
            raise NotReady(f"`{family}` is {LEAVING}")
        return [variant for variant in self._served.catalog.family(family).variants if variant.exits]

    def _require_use(self, family: str, condition: Condition | None) -> None:
        """Raise `Conflict` if a condition would change nothing, or a profile lacks a metric of it.

        A live condition may always be taken back.
        """
        variants, hosts = self._variants(family), self._with_exits(family)
        if condition is None and family in self._controller.dispatch.stop_when:
            return
        if not variants:
            raise Conflict(f"no variant of `{family}` has exits: there is nothing to stop")
        if self._plane.is_emulated:
            raise Conflict("devices are emulated: nobody knows how confident answers are that are made up")
        metrics: AbstractSet[Metric] = condition.metrics if condition is not None else frozenset()
        for host in hosts:
            if why_not := _exception(host, metrics):
                raise Conflict(why_not)

    def _with_exits(self, family: str) -> list[HostedVariant]:
        with_exits = {variant.name for variant in self._variants(family)}
        return [host for host in self._controller.families[family].hosts if host.variant in with_exits]


def _exception(host: HostedVariant, compared: AbstractSet[Metric]) -> str | None:
    """The reason why a live condition does not count on a host."""
    profile = f"the profile of `{host.variant}` on `{host.device}`"
    if not host.exits or not host.exits[0].points:
        return f"the profile knows no exits of `{host.variant}`: run `proteus profile`"
    if Metric.ENERGY in compared and host.power_w is None:
        return f"{profile} has no power, so its energy is not known"
    if Metric.ACCURACY in compared and all(each.accuracy is None for each in host.exits):
        return f"{profile} knows no accuracy of its exits: run `proteus profile` with an eval split"
    return None
