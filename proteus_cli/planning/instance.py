"""From names to arrays: everything that the model needs, and nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from proteus_cli.control.policies import VariantRule
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.profile import Capacity, Profile, VariantProfile, capacity


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Devices that perform alike: same type, same measurements."""

    type: str
    devices: tuple[str, ...]
    profile: Profile


@dataclass(frozen=True, slots=True)
class Choice:
    """One variant on one group of devices: a column of the model."""

    group: int
    family: int
    measured: VariantProfile
    capacity: Capacity


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """``F`` families, ``G`` device groups, ``C`` choices.

    ``capacity_qps`` and ``accuracy`` [C]; ``of_family`` [F, C] and ``of_group`` [G, C] are 0/1; ``device_count`` [G].
    Only choices that can meet their SLO are in.
    """

    families: tuple[str, ...]
    groups: tuple[DeviceGroup, ...]
    choices: tuple[Choice, ...]
    capacity_qps: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    of_family: npt.NDArray[np.float64]
    of_group: npt.NDArray[np.float64]
    device_count: npt.NDArray[np.float64]

    @property
    def most_qps(self) -> npt.NDArray[np.float64]:
        """More than any plan can serve of each family [F]."""
        return self.of_family @ (self.capacity_qps * (self.device_count @ self.of_group))


def make_instance(catalog: Catalog, profiles: Mapping[str, Profile], rule: VariantRule) -> Instance:
    """The planning instance of profiled devices (by id), with the variants that ``rule`` allows."""
    groups = _groups(profiles)
    choices = tuple(_choices(catalog, groups, rule))
    return Instance(
        families=catalog.names,
        groups=groups,
        choices=choices,
        capacity_qps=np.array([choice.capacity.qps for choice in choices]),
        accuracy=np.array([choice.measured.accuracy for choice in choices]),
        of_family=_members([choice.family for choice in choices], len(catalog.families)),
        of_group=_members([choice.group for choice in choices], len(groups)),
        device_count=np.array([float(len(group.devices)) for group in groups]),
    )


def _choices(catalog: Catalog, groups: Sequence[DeviceGroup], rule: VariantRule) -> Iterator[Choice]:
    for g, group in enumerate(groups):
        for f, family in enumerate(catalog.families):
            found = [group.profile.of(family.name, variant.name) for variant in family.variants]
            for measured in _allowed([variant for variant in found if variant is not None], rule):
                within = capacity(measured.points, family.slo_s)
                if within.qps > 0:
                    yield Choice(group=g, family=f, measured=measured, capacity=within)


def _groups(profiles: Mapping[str, Profile]) -> tuple[DeviceGroup, ...]:
    alike: list[tuple[Profile, list[str]]] = []
    for device, profile in profiles.items():
        for known, devices in alike:
            if (known.device.type, known.variants) == (profile.device.type, profile.variants):
                devices.append(device)
                break
        else:
            alike.append((profile, [device]))
    return tuple(DeviceGroup(profile.device.type, tuple(devices), profile) for profile, devices in alike)


def _allowed(measured: Sequence[VariantProfile], rule: VariantRule) -> Sequence[VariantProfile]:
    if rule == "all" or not measured:
        return measured
    pick = max if rule == "most-accurate" else min
    return [pick(measured, key=lambda variant: variant.accuracy)]


def _members(index_of: Sequence[int], size: int) -> npt.NDArray[np.float64]:
    members = np.zeros((size, len(index_of)))
    members[list(index_of), np.arange(len(index_of))] = 1.0
    return members
