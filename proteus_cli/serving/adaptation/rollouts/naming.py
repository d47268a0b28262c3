"""The catalog is made to name the version that is to serve, and is followed.

Roll-outs of several families may want that at the same time. The file is changed by one after another, and is read
before the next one changes it: so no change is lost, and each reading has all that was written by then. They are
followed together. Where a client has unloaded a family meanwhile, it stays so.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import Conflict, Unprocessable
from proteus_cli.serving.adaptation.catalog.live_catalog import LiveCatalog
from proteus_cli.serving.adaptation.rollouts.running import Running
from proteus_cli.serving.adaptation.rollouts.source import VersionSource

log = logging.getLogger("proteus.rollouts")

FOLLOWED_S = 120.0
"""So long a catalog may take to be followed."""
POLL_S = 0.1


class CatalogNaming:
    """Names versions in the catalog for `RolloutSteps`. Without a live catalog or a ``source``, all calls raise."""

    def __init__(
        self, live_catalog: LiveCatalog | None, source: VersionSource | None, clock: Callable[[], float]
    ) -> None:
        self._live, self._source, self._clock = live_catalog, source, clock
        self._changing = asyncio.Lock()
        self._following = set[str]()

    @property
    def live_catalog(self) -> LiveCatalog:
        """Raises `Conflict` where the server follows no catalog."""
        if self._live is None:
            raise Conflict("this server reads no catalog")
        return self._live

    @property
    def source(self) -> VersionSource:
        """Raises `Conflict` where the server follows no catalog."""
        if self._source is None:
            raise Conflict("this server reads no catalog")
        return self._source

    def is_naming(self, family: str) -> bool:
        """What a roll-out of a family has written is not followed yet."""
        return family in self._following

    async def name_new(self, running: Running) -> None:
        """Have the catalog name the new version. Raises `ProteusError` where that does not serve then.

        It returns early where the roll-out ends meanwhile; what was written then is to be written back.
        """
        source = self.source

        def write() -> bool:
            source.write(running.candidate, running.measured)
            return True

        running.is_named = True
        await self._name(running.family, running.new, write, lambda: running.machine.wanted.ending is None)

    async def name_old(self, running: Running) -> None:
        """Have the catalog name the old version again; what another has made of it is read as it is.

        Raises `ProteusError` where the old version does not serve then.
        """
        if not await self._name(running.family, running.old, partial(self.source.write_back, running.candidate)):
            log.warning("the catalog names another model than %s: it stays", running.new.variant)
        running.is_named = False

    async def _name(
        self, family: str, serving: VariantKey, write: Callable[[], bool], is_wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Change the file, and read it until it is followed, or not wanted any more.

        False where ``write`` has left the file, as it is another's.
        """
        live, stop_s = self.live_catalog, self._clock() + FOLLOWED_S
        self._following.add(family)
        try:
            async with self._changing:
                if not is_wanted():
                    return True
                if not await asyncio.to_thread(write):
                    await live.read(rolled_out=self._following - {family})
                    return False
                await live.read(rolled_out=frozenset(self._following))
            # While another roll-out writes, the files may not fit together; what it reads then is all that was written.
            while (live.status().state == "measuring" or self._changing.locked()) and self._clock() < stop_s:
                if not is_wanted():
                    return True
                await asyncio.sleep(POLL_S)
        finally:
            self._following.discard(family)
        if not live.serves(serving):
            raise Unprocessable(f"the catalog was not followed: {live.status().problem or 'it names another model'}")
        return True
