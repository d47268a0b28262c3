"""Where a server reads its catalog anew, and has variants measured that nobody has measured."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, Self

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.catalog_changes import CatalogContent, Succession
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.progress import Say
from proteus_cli.serving.devices.remote.sessions.session import AgentSession


@dataclass(frozen=True, slots=True)
class CatalogFiles:
    """The catalog as its file has it now, and the files that are loaded for its variants, where there are any.

    ``labels`` are names of classes, by family; only of some families.
    """

    content: CatalogContent
    models: Mapping[VariantKey, Path]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurements:
    """The profiles of devices, with what is current alone, and the digests of the files that plans are made of."""

    profiles: Mapping[str, Profile]
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MeasurableDevices:
    """Devices that may be measured beside what they serve, and by host the sessions with the agents of those."""

    devices: Sequence[Device]
    sessions: Mapping[str, AgentSession]

    def only(self, devices: Container[str]) -> Self:
        """The devices with these ids."""
        return replace(self, devices=[device for device in self.devices if device.id in devices])


class CatalogSource(Protocol):
    """Methods may read files for long; names are those of the catalog file."""

    @property
    def measures(self) -> bool:
        """Whether variants without a profile are measured."""
        ...

    def stamp(self) -> object:
        """What changes where the catalog, or a model that it names, may have. Quick, as nothing is read."""
        ...

    def read(self) -> CatalogFiles:
        """Raises `ProteusError`."""
        ...

    def measurements(self, files: CatalogFiles, types: Mapping[str, str]) -> Measurements:
        """What is known of devices, of which ``types`` has the type. Raises `ProteusError`."""
        ...

    async def measure(self, lacking: MeasurableDevices, say: Say) -> None:
        """Measure what these lack, in the time that they have left.

        Raises `ProteusError` where those of this machine can't be measured.
        """
        ...

    def use(self, following: Succession, inputs: Mapping[str, str]) -> None:
        """Plans are made of that from now on. Quick, as no file is read."""
        ...
