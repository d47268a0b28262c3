"""What devices host now, as far as planning takes it into account."""

from collections.abc import Mapping
from dataclasses import dataclass

from proteus_cli.domain.catalog import NO_VARIANTS, VariantsByDevice
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile


@dataclass(frozen=True, slots=True)
class Now:
    """What each device hosts in the plan in force, and what is ``resident``: that and its standbys. False: no plan is.

    With standbys, the fewest loads that are counted are a lower bound: of two variants that a device has loaded, it can
    host but one, and to tell devices apart by their standbys would make a large model of a small one.
    """

    hosted: VariantsByDevice
    resident: VariantsByDevice

    @classmethod
    def of(cls, current: Plan | None, standbys: VariantsByDevice, profiles: Mapping[str, Profile]) -> "Now":
        """What the devices with profiles host, and what stands by there."""
        if current is None:
            return NOWHERE
        hosted = {device: keys for device, keys in current.hosted().items() if device in profiles}
        return cls(hosted, {device: keys | standbys.get(device, NO_VARIANTS) for device, keys in hosted.items()})

    @property
    def has_standbys(self) -> bool:
        """Whether anything is loaded that is not active."""
        return self.resident != self.hosted

    def __bool__(self) -> bool:
        return bool(self.hosted)


NOWHERE = Now({}, {})
