"""What is known of the variants of a catalog that is followed; what nobody has measured is measured first."""

import asyncio
import logging

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import Profile
from proteus_cli.serving.adaptation.catalog.source import CatalogFiles, CatalogSource, MeasurableDevices, Measurements
from proteus_cli.serving.adaptation.profile_store import ProfileStore
from proteus_cli.serving.devices.hardware import Hardware
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.logs import fields
from proteus_cli.serving.measuring_time import tells_of_waits

log = logging.getLogger("proteus.catalog")


class CatalogMeasuring:
    """Has variants measured on CPUs of this machine, and of hosts that are connected, unless devices are emulated."""

    def __init__(self, files: CatalogSource, profiles: ProfileStore, clock: Clock, hardware: Hardware) -> None:
        self._files, self._profiles, self._clock, self._hardware = files, profiles, clock, hardware

    def measurable(self) -> MeasurableDevices:
        """The CPUs that could be measured now, were they real."""
        sessions = dict(self._hardware.sessions())
        cpus = [profile.device for profile in self._profiles.values() if profile.device.kind == "cpu"]
        return MeasurableDevices([cpu for cpu in cpus if not cpu.host or cpu.host in sessions], sessions)

    async def known(self, files: CatalogFiles) -> Measurements:
        """What is known of all devices now. Raises `ProteusError`."""
        while True:
            types = {device: profile.device.type for device, profile in self._profiles.items()}
            found = await asyncio.to_thread(self._files.measurements, files, types)
            if self._profiles.keys() == types.keys():  # else devices have joined meanwhile
                return found

    async def measured(self, files: CatalogFiles) -> Measurements:
        """What is known once what CPUs lack was measured, as far as time allowed. Raises `ProteusError`."""
        found = await self.known(files)
        lacking = self.measurable().only([device for device, each in found.profiles.items() if _lacks(each, files)])
        if lacking.devices and self._files.measures and not self._hardware.is_emulated:
            start_s, names = self._clock(), [cpu.id for cpu in lacking.devices]
            log.info("measuring what is new on %s", ", ".join(names), extra=fields(devices=names))
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


def _say(line: str) -> None:
    log.log(logging.INFO if tells_of_waits(line) else logging.DEBUG, "proteus profile: %s", line)


def _lacks(profile: Profile, files: CatalogFiles) -> set[VariantKey]:
    """Variants of the catalog that a profile has no times of; names are those of the catalog file."""
    known = {each.key for each in profile.variants if each.points}
    return files.models.keys() - known
