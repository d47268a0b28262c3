"""The inputs of plans while serving: the profiles as known now, and the planner that follows them."""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import msgspec

from proteus_cli import store
from proteus_cli.control.devices.slowness import Correction, corrected_profile, shared_profile
from proteus_cli.control.rollouts.plan_expansion import blended
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_record import Base
from proteus_cli.domain.profile import LiveAccuracyRecord, Profile, Recorded, VariantProfile
from proteus_cli.domain.profile_changes import live_accuracies, with_accuracies
from proteus_cli.serving.adaptation.solver import SolverProcess
from proteus_cli.serving.adaptation.solver_child import Replanner

if TYPE_CHECKING:
    from proteus_cli.domain.rollouts import VersionPair


class PlanSource(Protocol):
    """The workspace of a running server: its plan file, planners, and the files that plans are made from."""

    def read_plan(self) -> tuple[Plan, Base]:
        """Read the plan file again. Raises `ProteusError`."""
        ...

    def require_current(self, plan: Plan) -> None:
        """Raise `ArtefactError` where a file has changed that the plan was made from."""
        ...

    def replanner(self, plan: Plan, profiles: Mapping[str, Profile]) -> Replanner:
        """A planner with the rules and the headroom of a plan, and with these profiles."""
        ...

    def inputs(self) -> Mapping[str, str]:
        """The digests of the files that plans are made from, as this server has read or written them."""
        ...

    def write_profile(self, profile: Profile) -> None:
        """Write a profile to the workspace. Raises `ArtefactError`."""
        ...


class ProfileStore(Mapping[str, Profile]):
    """Profiles by device: as measured, until they are corrected. All planning and serving code reads them here.

    The profile of a device that servers share holds what one of them can count on. The profiles in ``alone`` are of
    devices that one server has to itself. ``live_accuracy`` holds the accuracies by feedback, which count in place of
    the measured ones; at first, the accuracies that an earlier server has recorded.
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
        """The number of servers that have a device open, at least 1."""
        return self._servers.get(device, 1)

    def share(self, device: str, servers: int) -> None:
        """From now on this number of servers share a device, this one included."""
        self._servers[device] = servers
        self.use([self._alone[device]])

    def use_accuracies(self, live: Mapping[VariantKey, float]) -> None:
        """From now on variants have these accuracies in place of the measured ones, and others have theirs."""
        self.live_accuracy = dict(live)
        self.use(list(self._alone.values()))

    def record_accuracies(self, live: Mapping[VariantKey, LiveAccuracyRecord]) -> list[str]:
        """Note these accuracies of variants in their profiles, and no others; returns whose profiles have changed.

        The measured accuracies stay there as well.
        """

        def noted(measured: VariantProfile) -> VariantProfile:
            return msgspec.structs.replace(measured, live=live.get(measured.key, msgspec.UNSET))

        after = [
            msgspec.structs.replace(profile, variants=tuple(map(noted, profile.variants)))
            for profile in self._alone.values()
        ]
        changed = [profile for profile in after if profile != self._alone[profile.device.id]]
        self.use(changed)
        return [profile.device.id for profile in changed]

    def write(self, device: str, source: PlanSource) -> None:
        """Write the present profile of a device, in any thread: one at a time. Raises `ArtefactError`."""
        with self._writing:
            source.write_profile(self._alone[device])

    def use(self, profiles: Iterable[Profile]) -> None:
        """From now on these are the profiles of their devices. New devices join."""
        for profile in profiles:
            device = profile.device.id
            self._alone[device] = profile
            self._current[device] = shared_profile(
                with_accuracies(profile, self.live_accuracy), self.servers_of(device)
            )

    def correct(self, device: str, corrections: Sequence[Correction]) -> Profile:
        """Replace the profile of a device by a corrected one, which says what it replaces, and return it."""
        before = self._alone[device]
        replaces = hashlib.sha256(store.to_json(before)).hexdigest()
        recorded = Recorded(datetime.now(UTC).isoformat(timespec="seconds"), replaces)
        after = msgspec.structs.replace(corrected_profile(before, corrections, recorded), made_by=store.made_by())
        self.use([after])
        return after


class LivePlanner:
    """The planner that the solver's process plans with. If ``solver`` is None, nothing plans again.

    It counts on the times of both versions of each of the ``version_pairs``, by family, during their roll-out.
    """

    def __init__(self, source: PlanSource, profiles: ProfileStore, solver: SolverProcess | None) -> None:
        self._source, self._profiles, self._solver = source, profiles, solver
        self.version_pairs: dict[str, VersionPair] = {}

    @property
    def replans(self) -> bool:
        """Whether there is a solver that makes plans while serving."""
        return self._solver is not None

    @property
    def is_solving(self) -> bool:
        """Whether the solver is at work on a plan."""
        return self._solver is not None and self._solver.state.is_busy

    def follow(self, plan: Plan) -> None:
        """Make the next plans by the rules and the headroom of this one, of profiles and catalog as they are now."""
        if self._solver is None:
            return
        profiles = dict(self._profiles)
        for pair in self.version_pairs.values():
            profiles = {device: blended(profile, pair) for device, profile in profiles.items()}
        self._solver.use(self._source.replanner(plan, profiles))

    def of_now(self, plan: Plan) -> Plan:
        """The plan as one that is made of profiles and catalog as they are now: the next server can resume it."""
        return msgspec.structs.replace(plan, inputs=dict(self._source.inputs()))

    def is_of_now(self, plan: Plan) -> bool:
        """Whether a plan was made of the catalog and profiles as they are now."""
        return plan.inputs == self.of_now(plan).inputs
