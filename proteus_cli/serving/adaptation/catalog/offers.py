"""The families that a server offers, as its catalog changes: those that are new, and those that are to leave.

A family that is not in the catalog any more takes no requests from then on, and clients are told so. Until those that
were admitted have ended, all else is as before: then plans are made without it. It *leaves* until none of its variants
is left: after that, nobody knows it.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.adaptation.catalog.served_catalog import ServedCatalog
from proteus_cli.serving.devices.hardware import Hardware
from proteus_cli.serving.logs import fields
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.requests.families import LEAVING, FamilyFiles, ServedFamily, served_families

log = logging.getLogger("proteus.catalog")

DRAIN_LOOK_S = 0.02
"""Between two looks at whether the requests of families that are to leave have ended."""


class Offers:
    """Changes which families there are, for `LiveCatalog`."""

    def __init__(self, served: ServedCatalog, hardware: Hardware, plane: DataPlane) -> None:
        self._served, self._hardware, self._plane = served, hardware, plane

    @property
    def leaving(self) -> list[str]:
        """Families that the catalog has no more, and that are not gone yet."""
        return [name for name in self._plane.families.by_name if name not in self._served.catalog.names]

    @property
    def taking_out(self) -> list[str]:
        """Families that take no more requests, as the catalog has them no more, or will not once they have ended."""
        return [name for name, family in self._plane.families.by_name.items() if family.why_out == LEAVING]

    async def drain(self, names: Collection[str]) -> None:
        """Let families take no more requests, and wait until those that were admitted have ended."""
        families, controller = self._plane.families.by_name, self._plane.controller
        until_s = self._plane.clock()
        for name in names:
            families[name].why_out = families[name].why_out or LEAVING
            until_s = max(until_s, self._plane.clock() + self._plane.admission.longest_s(name))
        if names:
            log.info("%s: being taken out of service", ", ".join(names))
        while any(controller.families[name].rows for name in names) and self._plane.clock() < until_s:
            await asyncio.sleep(DRAIN_LOOK_S)

    def resume(self, apart_from: Collection[str] = ()) -> None:
        """Families that were to leave, and that the catalog has still, take requests again."""
        for name in self._served.catalog.names:
            family = self._plane.families.by_name[name]
            if family.why_out == LEAVING and name not in apart_from:
                family.why_out = ""

    def use(
        self,
        files: Mapping[str, FamilyFiles],
        before: Collection[str],
        profiles: Collection[Profile],
        beside: Collection[VariantKey],
    ) -> None:
        """Offer the families of the catalog, and those that leave; variants that are known ``beside`` the catalog, too.

        What a client has unloaded stays so where the catalog says of it what it said ``before``.
        """
        known = self._plane.families.by_name
        offered = served_families(files.values(), profiles)
        for family in offered:
            if family.name in known:
                was = known[family.name]
                family.max_rows = max(family.max_rows, was.max_rows)
                family.why_out = was.why_out if family.name in before else ""
                family.know_beside({key.variant for key in beside if key.family == family.name}, was)
        leaving = [known[name] for name in self.leaving]
        for family in leaving:
            family.why_out = LEAVING
        stubs = {name for name, each in files.items() if each.is_stub}
        self._offer([*offered, *leaving], stubs | (self._hardware.stubs - files.keys()))

    def forget(self, retiring: Iterable[VariantKey]) -> None:
        """Forget the families that leave, and of which nothing is left: no variant, and no request."""
        controller, kept = self._plane.controller, {key.family for key in retiring}
        gone = {
            name
            for name in self.leaving
            if name not in kept and not controller.families[name].rows and not controller.families[name].hosts
        }
        if gone:
            known = self._plane.families.by_name.values()
            self._offer([family for family in known if family.name not in gone], self._hardware.stubs - gone)
            log.info("%s: out of service, and forgotten", ", ".join(sorted(gone)), extra=fields(families=sorted(gone)))

    def _offer(self, families: Sequence[ServedFamily], stubs: Collection[str]) -> None:
        self._hardware.use_signatures({family.name: family.signature for family in families}, stubs)
        self._plane.use_families(families, self._served.catalog.names)
