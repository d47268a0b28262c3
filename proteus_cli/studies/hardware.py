"""The devices of this machine that studies measure on."""

from collections.abc import Sequence

from proteus_cli.backends.discovery import select
from proteus_cli.domain.device import Device
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import ArtefactError


def profiled_here(profile: Profile, here: Sequence[Device]) -> Device:
    """The device of a profile. Raises `DeviceUnavailable`, and `ArtefactError` where another one has its id now."""
    (device,) = select(here, profile.device.id)
    if not profile.device.is_like(device):
        raise ArtefactError(
            f"The profile of `{device.id}` is of another device: {profile.device.name}.",
            hint=f"run `proteus profile --device {device.id}` to measure the one that is here",
        )
    return device
