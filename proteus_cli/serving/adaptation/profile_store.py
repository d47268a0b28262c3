"""The profiles of the devices as they are known to be now."""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from proteus_cli import store
from proteus_cli.control.devices.slowness import Correction, corrected_profile, shared_profile
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import LiveAccuracyRecord, Profile, Recorded, VariantProfile
from proteus_cli.domain.profile_changes import live_accuracies, with_accuracies
from proteus_cli.serving.adaptation.plan_source import PlanSource


class ProfileStore(Mapping[str, Profile]):
    """Profiles by device: as measured, until they are corrected. All who plan and serve read them here.

    Where servers share a device, its profile is what one of them can count on. Those in ``alone`` are of devices that
    one server has to itself. Those of devices that join are added. ``live_accuracy`` is what feedback says, where that
    counts in place of what was measured; at first, what an earlier server has recorded.
    """

    def __init__(self, measured: Mapping[str, Profile]) -> None:
        self._alone, self._current = dict(measured), dict(measured)
        self._servers: dict[str, int] = {}
        self._writing = threading.Lock()
        self.recorded = live_accuracies(measured.values())
        self.live_accuracy: Mapping[VariantKey, float] = {}
        if self.recorded:
            self.use_accuracies({key: each.accuracy for key, each in self.recorded.items()})

    def __getitem__(self, device: str) -> Profile:
        return self._current[device]

    def __iter__(self) -> Iterator[str]:
        return iter(self._current)

    def __len__(self) -> int:
        return len(self._current)

    @property
    def alone(self) -> Mapping[str, Profile]:
        """The profiles by device, without other servers on shared devices."""
        return self._alone

    @property
    def shared(self) -> list[str]:
        """The devices that servers share."""
        return [device for device, servers in self._servers.items() if servers > 1]

    def servers_of(self, device: str) -> int:
        """How many servers have a device open, at least 1."""
        return self._servers.get(device, 1)

    def share(self, device: str, servers: int) -> None:
        """From now on so many servers share a device, this one included."""
        self._servers[device] = servers
        profile = with_accuracies(self._alone[device], self.live_accuracy)
        self._current[device] = shared_profile(profile, servers)

    def use_accuracies(self, live: Mapping[VariantKey, float]) -> None:
        """From now on variants have these accuracies in place of the measured ones, and others have theirs."""
        self.live_accuracy = dict(live)
        self.use(list(self._alone.values()))

    def record_accuracies(self, live: Mapping[VariantKey, LiveAccuracyRecord]) -> list[str]:
        """Note these accuracies of variants in their profiles, and no others; returns whose profiles have changed.

        What was measured stays there as well.
        """
        changed = [(profile, _noting(profile, live)) for profile in self._alone.values()]
        self.use([after for before, after in changed if after != before])
        return [after.device.id for before, after in changed if after != before]

    def write(self, device: str, source: PlanSource) -> None:
        """Write the profile of a device, as it is known now, in any thread: one at a time. Raises `ArtefactError`."""
        with self._writing:
            source.write_profile(self._alone[device])

    def add(self, profile: Profile) -> None:
        """The profile of a device that joins."""
        self.use([profile])

    def use(self, profiles: Iterable[Profile]) -> None:
        """From now on these are the profiles of their devices."""
        for profile in profiles:
            self._alone[profile.device.id] = profile
            self.share(profile.device.id, self.servers_of(profile.device.id))

    def correct(self, device: str, corrections: Sequence[Correction]) -> Profile:
        """Replace the profile of a device by a corrected one, which says what it replaces; returns that of it alone."""
        before = self._alone[device]
        replaces = hashlib.sha256(store.to_json(before)).hexdigest()
        recorded = Recorded(datetime.now(UTC).isoformat(timespec="seconds"), replaces)
        after = msgspec.structs.replace(corrected_profile(before, corrections, recorded), made_by=store.made_by())
        self._alone[device] = after
        self.share(device, self.servers_of(device))
        return after


def _noting(profile: Profile, live: Mapping[VariantKey, LiveAccuracyRecord]) -> Profile:
    def noted(measured: VariantProfile) -> VariantProfile:
        return msgspec.structs.replace(measured, live=live.get(measured.key, msgspec.UNSET))

    return msgspec.structs.replace(profile, variants=tuple(map(noted, profile.variants)))
