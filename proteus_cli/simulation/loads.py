"""Loads in virtual time: those of plan changes, and of standbys, which a device does one after another."""

from collections.abc import Callable, Iterable, Mapping

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Effects, Host, Load, StandbyEnd, StandbyLoad
from proteus_cli.control.topology.plan_change import keys
from proteus_cli.control.topology.topology import ASK_S
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.plan.plan import Plan
from proteus_cli.domain.profile.profile import Profile
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.events import Events
from proteus_cli.simulation.fleet import SimulatedDevice
from proteus_cli.simulation.timing import load_time_s


class SimulatedLoads:
    """Does the loads that the controller asks for, and tells it. All succeed.

    Devices that load ``in_place`` load nothing beside what they serve. Once it ``is_over``, no standby is loaded.
    """

    def __init__(
        self,
        devices: Mapping[str, SimulatedDevice],
        profiles: Mapping[str, Profile],
        controller: Controller,
        events: Events,
        conditions: Conditions,
        *,
        apply: Callable[[Effects, float], None],
    ) -> None:
        self._devices, self._profiles, self._controller, self._events = devices, profiles, controller, events
        self._load_time_s, self._apply = load_time_s(conditions), apply
        self.in_place = tuple(devices) if conditions.load_time_s is not None else ()
        self.is_over = False

    def start(self, load: Load, now_s: float) -> None:
        """Load in place on a device, once it is idle."""
        idle_s = max(now_s, self._devices[load.device].busy_until_s)
        missing = [host for host in load.hosts if host.key not in load.keeps]
        self._events.at(self._loaded_s(load.device, missing, idle_s), self._loaded, load)

    def change_s(
        self, plan: Plan, before: Plan, standbys: Mapping[str, frozenset[VariantKey]]
    ) -> dict[tuple[str, VariantKey], float]:
        """Seconds of the loads that the change from ``before`` takes, by device and variant."""
        load_s, hosted, nothing = self._load_time_s, before.hosted(), frozenset[VariantKey]()
        return {
            (device, key): load_s(measured)
            for device, wanted in plan.hosted().items()
            for key in wanted - hosted.get(device, nothing) - standbys.get(device, nothing)
            if (measured := self._profiles[device].of(*key)) is not None
        }

    def loaded_beside_s(self, effects: Effects, now_s: float) -> float:
        """When the last device has loaded what it has not yet, beside what it hosts."""
        kept = {each.device: each.keys for each in effects.keep}
        missing = dict[str, list[Host]]()
        for host in effects.beside:
            if host.key not in kept[host.device]:
                missing.setdefault(host.device, []).append(host)
        return max((self._loaded_s(device, hosts, now_s) for device, hosts in missing.items()), default=now_s)

    def start_standbys(self, now_s: float) -> None:
        """Start the loads of standbys that are worth it now; again and again."""
        if self.is_over:
            return
        self._events.at(now_s + ASK_S, self.start_standbys)
        while (load := (effects := self._controller.topology.next_standby(now_s)).standby) is not None:
            measured = self._profiles[load.device].of(*load.key)
            assert measured is not None  # noqa: S101 - only what was profiled stands by
            state = self._devices[load.device]
            begins_s = max(now_s, state.loads_until_s)
            state.loads_until_s, state.standby = begins_s + self._load_time_s(measured), load
            self._events.at(state.loads_until_s, self._standby_loaded, load)
            self._apply(effects, now_s)

    def give_up_standby(self, load: StandbyLoad, now_s: float) -> None:
        """Cancel the load of a standby. Its device is as busy with it as it would have been."""
        self._devices[load.device].standby = None
        self._apply(self._controller.topology.standby_ended(load, StandbyEnd.GIVEN_UP, now_s), now_s)

    def _loaded_s(self, device: str, missing: Iterable[Host], from_s: float) -> float:
        """When a device has loaded what is missing, after the load of a standby that has begun there."""
        state = self._devices[device]
        loading = None if state.standby is None else state.standby.key
        measured = [self._profiles[device].of(*host.key) for host in missing if host.key != loading]
        load_s = sum([self._load_time_s(variant) for variant in measured if variant is not None])
        return max(from_s, state.loads_until_s) + load_s

    def _loaded(self, now_s: float, load: Load) -> None:
        self._apply(self._controller.loaded(load, keys(load.hosts) | load.keeps, now_s), now_s)

    def _standby_loaded(self, now_s: float, load: StandbyLoad) -> None:
        state = self._devices[load.device]
        if state.standby is load:  # else it was given up
            state.standby = None
            self._apply(self._controller.topology.standby_ended(load, StandbyEnd.LOADED, now_s), now_s)
