"""`Controller`: decisions about dispatch, topology and re-planning, for two drivers: the live server, the simulator."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from types import MappingProxyType

from proteus_cli.control.decision import NO_EFFECTS, Effects, Host, Launch, Load
from proteus_cli.control.dispatch.dispatch import Dispatch
from proteus_cli.control.dispatch.exit_bounds import exit_bounds
from proteus_cli.control.dispatch.family import FamilyState
from proteus_cli.control.dispatch.workers import InFlightBatches, WorkerState
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.demand import DemandEstimator
from proteus_cli.control.replanning.replanning import DeviceChanged, ExpectedAttainment, Replanning
from proteus_cli.control.topology.hosting import PlannableVariants
from proteus_cli.control.topology.plan_change import MAX_UNAVAILABLE_FRAC
from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.control.topology.topology import Topology
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Request
from proteus_cli.domain.rollouts import VersionPair
from proteus_cli.domain.stages.stage_forecast import ExitBounds


class Controller:
    """A façade over `Dispatch` (requests), `Topology` (devices, engines, plans) and `Replanning` (when to plan anew).

    The package's docstring explains the parts. The driver passes the time with each call, does what it is told, and
    applies the `Effects` that a change returns. Parts are asked directly: ``topology`` what devices have loaded, and
    what stands by there; ``replanning`` which plans to ask for; ``demand`` what clients ask for; ``dispatch`` to defer,
    cancel and launch requests; ``cascades`` which of them go by a cascade once their batch has ended; ``expected`` what
    plans in force expected to be in time.

    ``slo_s`` by family; ``slots`` and ``memory`` by device, of those that are there at the start. Without its memory, a
    device has no standbys. ``dispatch_ahead_s`` as in `Dispatch`. At most ``max_unavailable_frac`` of a family's
    capacity loads at a time. ``attainment`` has the targets of families, for drivers that make `Host`s.
    """

    def __init__(
        self,
        slo_s: Mapping[str, float],
        slots: Mapping[str, int],
        policy: Policy,
        *,
        dispatch_ahead_s: float = 0.0,
        max_unavailable_frac: float = MAX_UNAVAILABLE_FRAC,
        memory: Mapping[str, DeviceMemory] = MappingProxyType({}),
        attainment: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.policy, self.attainment = policy, dict(attainment)
        self.stop_when = dict[str, Condition]()  # live conditions by family; they replace those of the catalog
        self.demand = DemandEstimator(slo_s)
        self.placeable, self.expected = PlannableVariants(), ExpectedAttainment()
        self._families = {name: self._new_family(name) for name in slo_s}
        self._dispatch_ahead_s = dispatch_ahead_s
        self._workers = dict[str, WorkerState]()
        self.dispatch = Dispatch(self._families, self._workers, self.demand, policy, dispatch_ahead_s)
        self.cascades = self.dispatch.cascades
        self.topology = Topology(self._families, self._workers, self.dispatch, max_unavailable_frac)
        self._joining = set[str]()
        for device, count in slots.items():
            self.topology.add_device(self._worker(device, count), memory.get(device))
        self.replanning = Replanning(policy.replanning, self.demand, self._families, self.topology)
        # The three calls of the hot path are those of `Dispatch` itself: another call around each takes 2 % of a run.
        self.offer, self.decide, self.finished = self.dispatch.offer, self.dispatch.decide, self.dispatch.finished

    def use_families(self, slo_s: Mapping[str, float], attainment: Mapping[str, float], planned: Iterable[str]) -> None:
        """From now on these are all families, in one step; plans are made for those that are ``planned``.

        Families that are left out are forgotten. Raises `ValueError` where one of them is hosted, or has requests.
        """
        gone = [name for name in self._families if name not in slo_s]
        used = [name for name in gone if self._families[name].hosts or self._families[name].rows]
        if used:
            raise ValueError(f"{used[0]} is hosted, or has requests")
        self.attainment = dict(attainment)
        self.demand.use_families(slo_s, planned)
        for name in gone:
            del self._families[name]
            self.stop_when.pop(name, None)
        self._families |= {name: self._new_family(name) for name in slo_s if name not in self._families}
        self.replanning.use_families()

    # --- what the controller knows

    @property
    def slo_targets(self) -> dict[str, SloTarget]:
        """The SLO of each family, and the share of its queries that must be within it, as the catalog says."""
        shares = self.attainment
        return {name: SloTarget(s, shares.get(name, DEFAULT_ATTAINMENT)) for name, s in self.demand.slo_s.items()}

    @property
    def plan(self) -> Plan:
        """The plan in force. Raises `RuntimeError` before the first."""
        if self.topology.change.plan is None:
            raise RuntimeError("adopt a plan first")
        return self.topology.change.plan

    @property
    def placements(self) -> tuple[Placement, ...]:
        """What the plan in force places; nothing before the first."""
        return self.topology.change.plan.placements if self.topology.change.plan is not None else ()

    @property
    def waiting(self) -> int:
        """Requests in all queues."""
        return sum(family.waiting for family in self._families.values())

    def waiting_of(self, family: str) -> int:
        """How many requests of a family wait, in all of its queues."""
        return self._families[family].waiting

    def rows_of(self, family: str) -> int:
        """Rows that wait or run."""
        return self._families[family].rows

    def hosting(self, family: str) -> tuple[Host, ...]:
        """The hosts of a family that its queries are queued for."""
        return self._families[family].hosts

    def hosting_version(self, family: str, variants: AbstractSet[str]) -> tuple[Host, ...]:
        """The hosts of these variants, which queries may ask for."""
        return tuple(host for host in self._families[family].all_hosts if host.variant in variants)

    def serves(self, key: VariantKey) -> bool:
        """Whether a serving device hosts the variant for at least some requests."""
        return self._families[key.family].serves(key.variant, self._workers)

    def keeps_bounds(self, request: Request, variant: str) -> bool:
        """Whether a hosted variant keeps the bounds of a request, and its deadline where nothing else waits."""
        return self._families[request.family].keeps_bounds(request, variant)

    def is_lost(self, family: str) -> bool:
        """Whether all devices that host a family are lost, or the plan does without the family for that reason."""
        return self._families[family].is_lost

    def slowdown_of(self, device: str) -> float:
        """Measured over profiled batch time of a device, at least 1."""
        return self._workers[device].slowdown.factor

    def slots_of(self, device: str) -> int:
        """How many batches a device runs at once at most, now."""
        return self._workers[device].slots

    # --- requests

    def exit_bounds(self, launch: Launch) -> ExitBounds | None:
        """When a multi-exit model must have answered each request of a batch; None for other variants."""
        worker = self._workers[launch.hosted.device]
        way_s = launch.hosted.way_s(launch.rows) + worker.answer_way.within_s
        slowdown = worker.stage_slowdown.factor
        dispatch, may_leave = self.dispatch, self.dispatch.may_leave(launch)
        return exit_bounds(launch, dispatch.last_moment_s, way_s, slowdown, self.stop_when, may_leave=may_leave)

    # --- plans, devices and engines

    def adopt(self, plan: Plan, hosted: Sequence[Host], now_s: float, in_place: Collection[str] = ()) -> Effects:
        """Put a plan in force, which places ``hosted``.

        All of it is loaded, except on the devices that load ``in_place``: the effects say when each of these starts.
        While any device loads, the others switch only where they can be missed; else all switch at once.
        """
        self.placeable.plan_by(plan.rules, self.slo_targets)
        self.expected.use(plan, now_s)
        return self._changed(self.topology.adopt(plan, hosted, in_place), now_s)

    def loaded(self, load: Load, engines: Collection[VariantKey], now_s: float) -> Effects:
        """A load has ended, and the device has these ``engines`` now."""
        return self._changed(self.topology.loaded(load, engines), now_s)

    def loads_give_way(self, now_s: float) -> bool:
        """Whether loads for plans, beside what serves, must use only the time that batches leave."""
        return not self.replanning.loses_requests(now_s)

    def use_profiles(self, profiles: Mapping[str, Profile]) -> Effects:
        """Replace the times and accuracies by which standbys are chosen. Memory limits and placeable variants stay."""
        self.placeable.changed()
        return self.topology.use_profiles(profiles, self.slo_targets, self.plan.rules)

    def add_device(self, device: str, slots: int, memory: DeviceMemory | None = None) -> None:
        """Add a device. It counts as lost until it has passed its probation, when the driver calls `device_recovered`.

        ``memory`` as for the constructor. Raises `ValueError` where there is a device of that id.
        """
        if device in self._workers:
            raise ValueError(f"{device} is there already")
        self._joining.add(device)
        self.placeable.changed()
        self.topology.add_device(self._worker(device, slots), memory)
        self.topology.device_lost(device)

    def use_version_pair(self, family: str, pair: VersionPair | None) -> None:
        """Two versions of a variant of a family serve together, or none do; counts from the next plan on."""
        self._families[family].version_pair = pair

    def device_lost(
        self, device: str, running: Sequence[Launch], has_ended: Callable[[Request], bool] = lambda _: False
    ) -> Effects:
        """A device is lost with the batches that it ran.

        Their requests wait again, fail, or are dropped; those that have ended, as the driver knows, do nothing.
        """
        self.replanning.notice(DeviceChanged.LOST, device)
        return self.topology.device_lost(device, running, has_ended)

    def device_recovered(self, device: str, now_s: float, hosted: tuple[Host, ...] | None = None) -> Effects:
        """A lost device is back with ``hosted`` loaded; None: with nothing, and it loads what the plan wants.

        A new one has joined.
        """
        self.replanning.notice(DeviceChanged.JOINED if device in self._joining else DeviceChanged.BACK, device)
        self._joining.discard(device)
        return self._changed(self.topology.device_recovered(device, hosted), now_s)

    def engine_failed(self, device: str, key: VariantKey) -> Effects:
        """An engine cannot be loaded on a device, or fails on every batch: plans do without it until it recovers."""
        self.replanning.notice(f"{key.variant} is broken on {device}")
        return self.topology.engine_failed(device, key)

    def engine_recovered(self, device: str, key: VariantKey) -> None:
        """Plans may try an engine again that failed."""
        self.replanning.notice(f"{key.variant} is to be tried again on {device}")
        self.topology.engine_recovered(device, key)

    def forget_variants(self, keys: AbstractSet[VariantKey]) -> None:
        """Forget variants that are gone for good: no plan and no device has them."""
        self.topology.forget_variants(keys)

    def use_slots(self, device: str, slots: int, now_s: float) -> Effects:
        """Run at most so many batches at once on a device, from now on; those that run end as they would.

        Raises `ValueError` without a slot, and for a device of one slot, which may run a batch ahead.
        """
        if slots < 1 or self._workers[device].in_flight is not None:
            raise ValueError(f"{device} cannot use {slots} slots")
        return self.dispatch.use_slots(device, slots, now_s)

    def recalibrated(self, device: str, ratio: float) -> None:
        """The profile of a device has changed: latencies are ``ratio`` times the earlier ones, on average."""
        self._workers[device].slowdown.rebase(ratio)

    def _new_family(self, name: str) -> FamilyState:
        return FamilyState(self.demand.counts_of(name), self.policy.assignment, partial(self.placeable.of, name))

    def _worker(self, device: str, slots: int) -> WorkerState:
        return WorkerState(device, slots, InFlightBatches() if self._dispatch_ahead_s and slots == 1 else None)

    def _changed(self, effects: Effects, now_s: float) -> Effects:
        if effects is not NO_EFFECTS:
            self.replanning.hosting_changed(now_s)
        return effects
