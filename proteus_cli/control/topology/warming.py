"""When standbys load: on devices that have nothing to do, on few of a machine at a time, and seldom."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from proteus_cli.control.decision import Host, StandbyEnd, StandbyLoad
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.control.topology.plan_steps import PlanSteps, keys
from proteus_cli.control.topology.standbys import Standbys
from proteus_cli.domain.catalog import NO_VARIANTS, VariantKey, VariantsByDevice
from proteus_cli.domain.device import host_of

MAX_LOADING_FRAC = 0.1
"""Of the time of a device, and of the devices of a machine at a time, but one: a load takes cores, or a part of the
bandwidth, from the batches that run meanwhile."""

GIVING_WAY_FRAC = 0.1
"""Of a core that batches keep busy, which a load gets that gives way; what it takes of an idle core, nobody misses."""

ASK_S = 0.1
"""So often a driver asks for standbys to load."""

LOOK_S = 1.0  # s between two looks for a device that is free, as a look takes a millisecond on 40 devices

RETRY_S = 60.0
"""So long a standby is left alone that could not be loaded, and a device whose memory was short."""


class Warming:
    """The loads of standbys: on devices that host all that the plan wants there, and have a free slot.

    Of the devices of a machine, a tenth load at a time, or one. As each rests after a load, that seldom holds one up;
    but not all of them are slowed at once. One that has failed on a device is not tried again there for `RETRY_S`.
    """

    def __init__(self, workers: Mapping[str, WorkerState], steps: PlanSteps, standbys: Standbys) -> None:
        self._workers, self._steps, self._standbys = workers, steps, standbys
        self._loads: dict[str, StandbyLoad] = {}
        self._rests_until_s: dict[str, float] = {}
        self._failed_until_s: dict[tuple[str, str, str], float] = {}
        self._looks_again_s = 0.0

    def changed(self) -> None:
        """What is active or loaded has changed."""
        self._looks_again_s = 0.0

    def next(self, now_s: float, broken: Collection[tuple[str, str, str]]) -> StandbyLoad | None:
        """The next load, if any is worth it now; ``broken`` engines (device, family, variant) are left out."""
        if now_s < self._looks_again_s:
            return None
        devices = self._steps.unchanging
        full = self._full_hosts()
        free = [device for device in devices if host_of(device) not in full and self._may_load(device, now_s)]
        resident = {device: self._steps.resident_on(device) | self.loading_on(device) for device in devices}
        hosted = {device: self._steps.hosted_on(device) for device in devices}
        self._forget_past(now_s)
        found = self._next(hosted, resident, free, self._failed_until_s.keys() | set(broken))
        if found is None:
            is_done = self._next(hosted, resident, devices, broken) is None
            self._looks_again_s = math.inf if is_done else now_s + LOOK_S
            return None
        device, key = found
        self._steps.trim(device, also_needed={key})
        max_batch = self._standbys.loadable(device, key).max_batch
        self._loads[device] = StandbyLoad(device, key, max_batch, now_s)
        return self._loads[device]

    def _next(
        self,
        hosted: Mapping[str, Sequence[Host]],
        resident: VariantsByDevice,
        devices: Collection[str],
        without: Collection[tuple[str, str, str]],
    ) -> tuple[str, VariantKey] | None:
        active = {device: keys(hosts) for device, hosts in hosted.items()}
        own = self._standbys.next(active, resident, devices, without)
        return own or self._standbys.next_foreign(hosted, resident, devices, without)

    def _forget_past(self, now_s: float) -> None:
        """What is over, of devices and variants that may be gone by now."""
        self._rests_until_s = {device: until_s for device, until_s in self._rests_until_s.items() if until_s > now_s}
        self._failed_until_s = {engine: until_s for engine, until_s in self._failed_until_s.items() if until_s > now_s}

    def _may_load(self, device: str, now_s: float) -> bool:
        is_resting = self._rests_until_s.get(device, 0.0) > now_s
        return device not in self._loads and not is_resting and self._workers[device].free > 0

    def _full_hosts(self) -> set[str]:
        """The machines of which no more devices may load now."""
        loading, there = Counter(map(host_of, self._loads)), Counter(map(host_of, self._workers))
        return {host for host, count in loading.items() if count >= max(1, int(MAX_LOADING_FRAC * there[host]))}

    def loading_on(self, device: str) -> frozenset[VariantKey]:
        """The standby that a device loads."""
        return frozenset({self._loads[device].key}) if device in self._loads else NO_VARIANTS

    def in_the_way(self, wanted: VariantsByDevice) -> tuple[StandbyLoad, ...]:
        """The loads on devices where a plan changes what is active, but for those of what is ``wanted`` there."""
        return tuple(
            load
            for device, load in self._loads.items()
            for of_plan in [wanted.get(device, NO_VARIANTS)]
            if load.key not in of_plan and of_plan != keys(self._steps.hosted_on(device))
        )

    def ended(self, load: StandbyLoad, how: StandbyEnd, now_s: float, *, gave_way: bool) -> None:
        """A load has ended. Where the controller gave it up meanwhile, its variant does not stand by."""
        if self._loads.get(load.device) is not load:
            return
        del self._loads[load.device]
        taken_s = (now_s - load.start_s) * (GIVING_WAY_FRAC if gave_way else 1.0)
        self._rests_until_s[load.device] = now_s + taken_s * (1 / MAX_LOADING_FRAC - 1)
        match how:
            case StandbyEnd.LOADED:
                self._steps.add_standby(load.device, load.key)
                self._steps.trim(load.device)
            case StandbyEnd.FAILED:
                self._failed_until_s[load.device, *load.key] = now_s + RETRY_S
            case StandbyEnd.NO_MEMORY:
                self.memory_short(load.device, now_s)
            case StandbyEnd.GIVEN_UP:
                pass
        self.changed()

    def give_up(self, device: str) -> None:
        """The load on a device, if any, means nothing any more."""
        self._loads.pop(device, None)
        self.changed()

    def memory_short(self, device: str, now_s: float) -> None:
        """A device gives its standbys up, and gets no others for a while."""
        self.give_up(device)
        self._steps.give_up_standbys(device, self._steps.spare_on(device))
        self._rests_until_s[device] = now_s + RETRY_S
        self.changed()

    def engine_failed(self, device: str, key: VariantKey) -> None:
        """A variant is no longer warmed on a device, and does not stand by there."""
        self._steps.give_up_standbys(device, [key])
        self.changed()
