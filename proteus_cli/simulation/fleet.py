"""The simulated devices: what runs there, what is lost with them, and how they are tried out when they are back."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Effects, Host, Launch, StandbyLoad
from proteus_cli.control.topology.hosting import hosted_by
from proteus_cli.control.topology.plan_change import keys
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.domain.profile.profile import Profile, VariantProfile
from proteus_cli.domain.request import Outcome, Request
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.timing import BatchTimes, load_time_s


@dataclass(slots=True)
class SimulatedDevice:
    """What runs on a device: ``running`` batches, with their starts, the last of which ends at ``busy_until_s``.

    Loads of standbys go on until ``loads_until_s``, also one that was given up; ``standby`` is one that was not.
    ``life`` counts losses of the device: an event that refers to an earlier one is void. The queries of
    the ids ``answered`` have left batches that still run. ``tried_out`` is what is loaded during its probation.
    """

    running: dict[int, tuple[Launch, float]] = field(default_factory=dict)
    busy_until_s: float = 0.0
    loads_until_s: float = 0.0
    standby: StandbyLoad | None = None
    life: int = 0
    answered: set[int] = field(default_factory=set)
    tried_out: frozenset[VariantKey] = frozenset()

    def has_answered(self, request: Request) -> bool:
        """A request has left a batch that still runs."""
        return request.id in self.answered


class SimulatedFleet:
    """Does to devices what `Losses` says, and tells the controller."""

    def __init__(
        self,
        devices: Mapping[str, SimulatedDevice],
        profiles: Mapping[str, Profile],
        controller: Controller,
        run_s: BatchTimes,
        conditions: Conditions,
        *,
        apply: Callable[[Effects, float], None],
        end: Callable[[Iterable[Request], Outcome, float], None],
    ) -> None:
        self._devices, self._profiles, self._controller, self._run_s = devices, profiles, controller, run_s
        self._slow, self._opening_s = conditions.slow, conditions.opening_s
        self._load_time_s = load_time_s(conditions)
        self._apply, self._end = apply, end

    def lose(self, devices: Sequence[str], now_s: float) -> None:
        """Lose these devices, all in this instant, with what they run."""
        effects = list[Effects]()
        for device in devices:
            state = self._devices[device]
            running = tuple(launch for launch, _ in state.running.values())
            state.running, state.busy_until_s = {}, 0.0
            state.loads_until_s, state.standby = 0.0, None
            state.life += 1
            effects.append(self._controller.device_lost(device, running, state.has_answered))
            state.answered.clear()
        for each in effects:
            self._end(each.failed, Outcome.FAILED, now_s)
        for each in effects:  # only now, as no other of these devices may be asked
            self._apply(each, now_s)

    def is_needed(self, device: str) -> bool:
        """A lost device is to be retried soon."""
        return self._controller.topology.is_needed(self._hostable_on(device))

    def try_out_s(self, device: str, now_s: float) -> float:
        """Begin the probation of a device, whose engines all work; returns the seconds that it takes."""
        probation = self._controller.topology.probation(device, self._hostable_on(device), self._load_time_s)
        rows = dict[VariantKey, int]()
        for key, count in probation.to_try():
            rows[key], probation.has_passed = count, True
        self._devices[device].tried_out = frozenset(rows)
        ready_s = self._opening_s + self._loading_s(device, rows)
        batches_s = sum(self._run_s[device, *key][0](count) for key, count in rows.items())
        return ready_s + batches_s * self._slow.factor_at(now_s + ready_s)

    def load_rest_s(self, device: str) -> float:
        """Load what the plan in force wants there and is not loaded; returns the seconds that it takes."""
        state = self._devices[device]
        rest = keys(self._planned_on(device)) - state.tried_out
        state.tried_out |= rest
        return self._loading_s(device, rest)

    def recover(self, device: str, now_s: float) -> None:
        """The device has passed its probation, and serves again."""
        self._apply(self._controller.device_recovered(device, now_s, self._planned_on(device)), now_s)

    def _hostable_on(self, device: str) -> list[VariantProfile]:
        return [each for each in self._profiles[device].variants if each.points]

    def _planned_on(self, device: str) -> tuple[Host, ...]:
        """What the plan in force wants on a device."""
        hosted = hosted_by(self._controller.plan, self._profiles, self._controller.attainment)
        return tuple(host for host in hosted if host.device == device)

    def _loading_s(self, device: str, wanted: Iterable[VariantKey]) -> float:
        """Seconds to load variants one after another."""
        measured = (self._profiles[device].of(*key) for key in wanted)
        return sum(self._load_time_s(each) for each in measured if each is not None)
