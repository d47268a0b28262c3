"""The profiles of the devices as they are known to be now."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from proteus_cli import store
from proteus_cli.control.topology.drift import Correction, corrected_profile
from proteus_cli.domain.profile import Profile, Recorded


class ProfileStore(Mapping[str, Profile]):
    """Profiles by device: as measured, until they are corrected. All who plan and serve read them here.

    Those of devices that join are added.
    """

    def __init__(self, measured: Mapping[str, Profile]) -> None:
        self._current = dict(measured)

    def __getitem__(self, device: str) -> Profile:
        return self._current[device]

    def __iter__(self) -> Iterator[str]:
        return iter(self._current)

    def __len__(self) -> int:
        return len(self._current)

    def add(self, profile: Profile) -> None:
        """The profile of a device that joins."""
        self._current[profile.device.id] = profile

    def correct(self, device: str, corrections: Sequence[Correction]) -> Profile:
        """Replace the profile of a device by a corrected one, which says what it replaces."""
        before = self._current[device]
        replaces = hashlib.sha256(store.to_json(before)).hexdigest()
        recorded = Recorded(datetime.now(UTC).isoformat(timespec="seconds"), replaces)
        after = msgspec.structs.replace(corrected_profile(before, corrections, recorded), made_by=store.made_by())
        self._current[device] = after
        return after
