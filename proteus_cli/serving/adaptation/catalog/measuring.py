"""What is known of the variants of a catalog that is followed; what nobody has measured is measured first."""

import asyncio
import logging

from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.serving.adaptation.catalog.source import CatalogFiles, CatalogSource, Measurements
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.logs import fields
from proteus_cli.serving.measuring_time import GOES_ON, WAITS

log = logging.getLogger("proteus.catalog")


class CatalogMeasuring:
    """Has variants measured on the CPUs of this machine, unless all devices are emulated."""

    def __init__(self, files: CatalogSource, profiles: ProfileStore, clock: Clock, *, is_emulated: bool) -> None:
        self._files, self._profiles, self._clock, self._is_emulated = files, profiles, clock, is_emulated

    async def known(self, files: CatalogFiles) -> Measurements:
        """What is known of all devices now. Raises `ProteusError`."""
        types = {device: profile.device.type for device, profile in self._profiles.items()}
        return await asyncio.to_thread(self._files.measurements, files, types)

    async def measured(self, files: CatalogFiles) -> Measurements:
        """What is known once what this machine's CPUs lack was measured, as far as time allowed.

        Raises `ProteusError`.
        """
        found = await self.known(files)
        lacking = [device for device, each in found.profiles.items() if self._may_measure(each) and _lacks(each, files)]
        if lacking and self._files.measures:
            start_s = self._clock()
            log.info("measuring what is new on %s", ", ".join(lacking), extra=fields(devices=lacking))
            await self._files.measure(lacking, _say)
            found = await self.known(files)
            log.info("measured it in %.0f s", self._clock() - start_s)
        for device, profile in found.profiles.items():
            if names := sorted(key.variant for key in _lacks(profile, files)):
                log.warning(
                    "no current profile of %s on %s: plans do without what is new", ", ".join(names), device,
                    extra=fields(device=device, variants=names),
                )  # fmt: skip
        return found

    def _may_measure(self, profile: Profile) -> bool:
        return profile.device.kind == "cpu" and not profile.device.host and not self._is_emulated


def _say(line: str) -> None:
    log.log(logging.INFO if line in {WAITS, GOES_ON} else logging.DEBUG, "proteus profile: %s", line)


def _lacks(profile: Profile, files: CatalogFiles) -> set[VariantKey]:
    """Variants of the catalog that a profile has no times of; names are those of the catalog file."""
    known = {each.key for each in profile.variants if each.points}
    return files.models.keys() - known
