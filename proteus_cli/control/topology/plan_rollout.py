"""How a plan is rolled out: which devices load beside what serves, which in place, and what follows a failed load."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from proteus_cli.control.decision import FailedLoad, Host, Keep, StandbyLoad
from proteus_cli.control.topology.plan_steps import keys
from proteus_cli.control.topology.room import without_room_beside
from proteus_cli.control.topology.topology import Topology
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import OutOfDeviceMemory


@dataclass(frozen=True, slots=True)
class LoadBeside:
    """Load ``hosts`` beside what serves, and report what failed.

    Before that, ``cancel`` loads of standbys, free what devices do not ``keep``, and ask workers. Where one of these
    hosts is being loaded as a standby, wait for that.
    """

    hosts: tuple[Host, ...]
    keep: tuple[Keep, ...]
    ask: tuple[str, ...] = ()
    cancel: tuple[StandbyLoad, ...] = ()


@dataclass(frozen=True, slots=True)
class Switch:
    """Adopt the plan, do the loads of devices ``in_place`` as the effects say, and report what failed."""

    in_place: frozenset[str]


@dataclass(frozen=True, slots=True)
class RolloutEnd:
    """The plan is in force, or failed by ``failure``: then ``back_to`` is to be rolled out again, if there is a plan.

    Else free what devices do not ``keep``. The ``broken`` engines are to be reported as failed.
    """

    keep: tuple[Keep, ...]
    broken: tuple[FailedLoad, ...] = ()
    failure: FailedLoad | None = None
    back_to: Plan | None = None


class PlanRollout:
    """The roll-out of a plan that places ``hosted``, step by step; a driver reports how each step ended.

    Where loads beside what serves fail, nothing has changed. Where memory was short, it is tried once more without the
    standbys of the device, and then in place. Where loads in place fail, the earlier plan is rolled out again, if the
    roll-out ``may_go_back``. A device that is lost meanwhile is no failure: the plan goes ahead without it.
    """

    def __init__(self, topology: Topology, hosted: Sequence[Host], *, may_go_back: bool = True) -> None:
        plan = topology.plan
        self._topology, self._hosted = topology, hosted
        self._back_to = plan if may_go_back and plan is not None and plan.placements else None
        self._in_place = frozenset[str]()
        self._failures: list[FailedLoad] = []
        self._tried_again = False

    def begin(
        self,
        profiles: Mapping[str, Profile] = MappingProxyType({}),
        free_bytes: Mapping[str, int] = MappingProxyType({}),
        in_place: Collection[str] = (),
    ) -> LoadBeside:
        """Load beside what serves, on all devices that have the memory; but in place on those that are given.

        Memory is what ``profiles`` by device say, and ``free_bytes`` by host, where they are known.
        """
        self._topology.loads_beside = True
        hosted = [host for host in self._hosted if host.device not in in_place]
        of_plan = {device: keys(self._on(device)) for device in dict.fromkeys(host.device for host in self._hosted)}
        cancel = self._topology.warming.in_the_way(of_plan)
        ask = self._topology.make_room(hosted).ask if hosted else ()
        wanted = {device: of_plan[device] for device in of_plan if device not in in_place}
        loading_on, steps = self._topology.warming.loading_on, self._topology.steps
        resident = {device: steps.resident_on(device) | (loading_on(device) & wanted[device]) for device in wanted}
        full = without_room_beside(wanted, resident, profiles, free_bytes)
        self._in_place = frozenset(in_place) | full
        beside = self._topology.steps.usable - full
        return LoadBeside(tuple(host for host in hosted if host.device in beside), self.keep, ask, cancel)

    def loaded_beside(self, failures: Iterable[FailedLoad], now_s: float) -> LoadBeside | Switch | RolloutEnd:
        """The loads beside what serves have ended."""
        self._failures += failures
        short = {failed.device for failed in self._failures if isinstance(failed.error, OutOfDeviceMemory)}
        crowded = short & self._topology.steps.standbys.keys()
        if crowded and not self._tried_again:
            return self._again_without_standbys(crowded, now_s)
        self._topology.loads_beside = False
        full = {device for device in short if self._topology.steps.hosted_on(device)}
        if any(failed.device not in full for failed in self._failures):
            # Before the first plan, there is nothing to plan around.
            is_first = self._topology.plan is None or not self._topology.plan.placements
            return RolloutEnd(self.keep, () if is_first else tuple(self._failures), self._failures[0])
        return Switch(self._in_place | full)

    def loaded_in_place(self, failures: Sequence[FailedLoad]) -> RolloutEnd:
        """All loads in place have ended."""
        if not failures:
            return RolloutEnd(self.keep)
        return RolloutEnd(self.keep, tuple(failures), failures[0], self._back_to)

    def given_up(self) -> tuple[Keep, ...]:
        """The driver gives up before the switch, and nothing has changed; returns what devices keep."""
        self._topology.loads_beside = False
        return self.keep

    @property
    def keep(self) -> tuple[Keep, ...]:
        """What devices keep; where the plan is not wanted any more, they free the rest."""
        return self._topology.steps.keep_of(*self._topology.steps.usable)

    def _again_without_standbys(self, crowded: Collection[str], now_s: float) -> LoadBeside:
        self._tried_again = True
        self._failures = [failed for failed in self._failures if failed.device not in crowded]
        keep, ask = list[Keep](), dict[str, None]()
        for device in crowded:
            ask |= dict.fromkeys(self._topology.memory_short(device, now_s).ask)
            keep.append(Keep(device, self._topology.steps.resident_on(device) | keys(self._on(device))))
        return LoadBeside(tuple(host for device in crowded for host in self._on(device)), tuple(keep), tuple(ask))

    def _on(self, device: str) -> list[Host]:
        return [host for host in self._hosted if host.device == device]
