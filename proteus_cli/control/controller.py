"""`Controller`: decisions about dispatch, topology and re-planning, for two drivers: the live server, the simulator."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from proteus_cli.control.decision import NO_EFFECTS, Effects, HostedVariant, Launch, Load
from proteus_cli.control.dispatch.dispatch import Dispatch
from proteus_cli.control.dispatch.family import FamilyState
from proteus_cli.control.dispatch.workers import WorkerState
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.demand import DemandEstimator
from proteus_cli.control.replanning.replanning import DeviceChanged, ExpectedAttainment, Replanning
from proteus_cli.control.topology.hosting import PlannableVariants, device_memory
from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.control.topology.topology import Topology
from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Request
from proteus_cli.domain.rollouts import VersionPair

MAX_UNAVAILABLE_FRAC = 0.5  # of a family's capacity; at more, one wrong plan takes a family out of service


class Controller:
    """Decides for one server, or one simulation: which requests to admit, what workers run, when to plan anew.

    It guarantees:

    * Each admitted request leaves in exactly one way: a `Launch` that ends, a `Drop`, the ``dropped`` or ``failed``
      requests of `Effects`, or a cancel. Requests of a lost device wait again with their deadlines.
    * It has no clock, I/O or randomness: the same calls get the same answers.
    * A change returns its `Effects` as a value, and a decision is one too. The driver carries them out. To ask a worker
      once too often is harmless.
    * No batch is larger than its host's ``max_batch``. Under a late assignment, each of its requests is in time at the
      measured slowdown, and a request that no host can make is dropped.
    * While a plan comes into force, no family misses more than ``max_unavailable_frac`` of its capacity at a time.

    Operations that concern several parts are methods. All else is asked of one part:

    * ``dispatch``: requests that are deferred, cancelled or run at once; slots in use; live conditions.
    * ``cascades``: which requests go by which cascade once their batch has ended.
    * ``change``: the steps from the plan in force to the next one, and what devices have loaded.
    * ``topology``: standbys, the probation of devices, and engines that are out.
    * ``replanning``, ``demand``: which plan to ask for, and the arrivals that it is for.
    * ``placeable``, ``expected``: what plans could place, and what they expect to be in time.
    * ``families``, ``workers``: queues and devices by name. Drivers only read them.

    ``slo_s`` by family; ``slots`` and ``memory`` by device, of the devices at the start. Without its memory, a device
    has no standbys. ``attainment`` has the targets of families. ``dispatch_ahead_s`` as in `Dispatch`.

    An example: cpu0 and cpu1 host a variant that takes 10 ms for one row and 16 ms for four; the SLO is 100 ms. Five
    requests arrive, and two free workers share them. When cpu0 is lost, its requests wait for cpu1.

    >>> [controller.offer(request, 0.0).devices for request in requests]
    [('cpu0',), ('cpu0',), ('cpu0',), ('cpu0',), ('cpu0',)]
    >>> first = controller.decide("cpu0", 0.0)
    >>> first.rows, first.wake
    (3, ('cpu1',))
    >>> controller.decide("cpu0", 0.0)
    Idle()
    >>> second = controller.decide("cpu1", 0.0)
    >>> second.rows
    2
    >>> controller.device_lost("cpu0", [first]).ask
    ('cpu0', 'cpu1')
    >>> controller.finished(second, 0.012)
    >>> controller.decide("cpu1", 0.012).rows
    3
    >>> controller.replanning.decide(0.2).reason
    'cpu0 was lost'
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
        self.policy = policy
        self.demand, self.placeable, self.expected = DemandEstimator({}), PlannableVariants(), ExpectedAttainment()
        self.families, self.workers = dict[str, FamilyState](), dict[str, WorkerState]()
        self.dispatch = Dispatch(self.families, self.workers, self.demand, policy, dispatch_ahead_s)
        self.cascades = self.dispatch.cascades
        self.topology = Topology(self.families, self.workers, self.dispatch, max_unavailable_frac)
        self.change = self.topology.change
        self._joining = set[str]()
        for device, count in slots.items():
            self.topology.add_device(device, count, memory.get(device))
        self.replanning = Replanning(policy.replanning, self.demand, self.families, self.topology)
        self.use_families(slo_s, attainment, slo_s)
        # The hot path calls `Dispatch` directly: a call around each of these takes 2 % of a run.
        self.offer, self.decide, self.finished = self.dispatch.offer, self.dispatch.decide, self.dispatch.finished

    def use_families(self, slo_s: Mapping[str, float], attainment: Mapping[str, float], planned: Iterable[str]) -> None:
        """From now on these are all families, in one step; plans are made for the ``planned`` ones.

        Families that are left out are forgotten. Raises `ValueError` where one of them is hosted, or has requests.
        """
        gone = [name for name in self.families if name not in slo_s]
        used = [name for name in gone if self.families[name].hosts or self.families[name].rows]
        if used:
            raise ValueError(f"{used[0]} is hosted, or has requests")
        self.attainment = dict(attainment)
        self.slo_targets = {name: SloTarget(s, attainment.get(name, DEFAULT_ATTAINMENT)) for name, s in slo_s.items()}
        self.demand.use_families(slo_s, planned)
        for name in gone:
            del self.families[name]
            self.dispatch.stop_when.pop(name, None)
        for name in slo_s:
            if name not in self.families:
                self.families[name] = FamilyState(
                    self.demand.counts_of(name),
                    self.policy.assignment,
                    self.policy.batching.answer_frac,
                    partial(self.placeable.of, name),
                    self.workers,
                )
        self.replanning.use_families()

    # --- what the controller knows

    @property
    def plan(self) -> Plan:
        """The plan in force. Raises `RuntimeError` before the first."""
        if self.change.plan is None:
            raise RuntimeError("adopt a plan first")
        return self.change.plan

    @property
    def placements(self) -> tuple[Placement, ...]:
        """The placements of the plan in force; none before the first."""
        return self.change.plan.placements if self.change.plan is not None else ()

    def slowdown_of(self, device: str) -> float:
        """Measured over profiled batch time of a device, at least 1."""
        return self.workers[device].slowdown.factor

    # --- plans, devices and engines

    def adopt(
        self, plan: Plan, hosted: Sequence[HostedVariant], now_s: float, in_place: Collection[str] = ()
    ) -> Effects:
        """Put a plan in force, which places ``hosted``.

        All of it is loaded, except on devices that load ``in_place``: the effects say when each such load starts. While
        any device loads, the others switch only where they can be missed; else all switch at once.
        """
        self.placeable.plan_by(plan.rules, self.slo_targets)
        self.expected.use(plan, now_s)
        return self._changed(self.topology.adopt(plan, hosted, in_place), now_s)

    def loaded(self, load: Load, engines: Collection[VariantKey], now_s: float) -> Effects:
        """A load has ended, and the device has these ``engines`` now."""
        return self._changed(self.topology.loaded(load, engines), now_s)

    def use_profiles(self, profiles: Mapping[str, Profile]) -> Effects:
        """From now on these are the profiles by device. Standbys are chosen by them, within the same memory limits."""
        known, limits = self.placeable, {device: each.memory_bytes for device, each in self.change.memory.items()}
        known.use(profiles, known.variants, known.beside)
        return self.topology.use_memory(
            device_memory(limits, profiles, self.slo_targets, self.plan.rules, known.variants, known.beside)
        )

    def add_device(self, device: str, slots: int, memory: DeviceMemory | None = None) -> None:
        """Add a device. It counts as lost until it has passed its probation, when the driver calls `device_recovered`.

        ``memory`` as for the constructor. Raises `ValueError` where there is a device of that id.
        """
        if device in self.workers:
            raise ValueError(f"{device} is there already")
        self._joining.add(device)
        self.placeable.changed()
        self.topology.add_device(device, slots, memory)
        self.topology.device_lost(device)

    def use_version_pair(self, family: str, pair: VersionPair | None) -> None:
        """Two versions of a variant of a family serve together, or none do; counts from the next plan on."""
        self.families[family].version_pair = pair

    def device_lost(
        self, device: str, running: Sequence[Launch], has_ended: Callable[[Request], bool] = lambda _: False
    ) -> Effects:
        """A device is lost with the batches that it ran.

        Their requests wait again, fail, or are dropped. Requests that ``has_ended`` tells of are left alone.
        """
        self.replanning.notice(DeviceChanged.LOST, device)
        return self.topology.device_lost(device, running, has_ended)

    def device_recovered(self, device: str, now_s: float, hosted: tuple[HostedVariant, ...] | None = None) -> Effects:
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

    def _changed(self, effects: Effects, now_s: float) -> Effects:
        if effects is not NO_EFFECTS:
            self.replanning.hosting_changed(now_s)
        return effects
