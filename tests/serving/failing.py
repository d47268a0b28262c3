"""A server of two devices in virtual time, which the test can kill, stop and break."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from builders import NeverHurried, make_catalog, make_family, make_measured, make_placement, make_plan, make_profile
from looping import loop_around
from virtual_loop import VirtualLoop

from proteus_cli.backends.base import Signature, TensorSpec
from proteus_cli.backends.free_memory import HostMemory
from proteus_cli.control.controller import Controller
from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.control.policies import PROTEUS
from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.control.topology.hosting import device_memory
from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.domain.catalog import VariantKey, VariantsByDevice
from proteus_cli.domain.catalog_changes import CatalogContent
from proteus_cli.domain.device import Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile, VariantProfile
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.rules import Rules
from proteus_cli.errors import DeviceLost, EngineBroken, EngineError, RequestError
from proteus_cli.planning.from_workspace import for_catalog
from proteus_cli.planning.planner import Planner
from proteus_cli.serving.adaptation.catalog_reading import ServedCatalog
from proteus_cli.serving.adaptation.plan_inputs import ProfileStore
from proteus_cli.serving.adaptation.rollout_steps import VersionedPlans
from proteus_cli.serving.devices.emulated import EmulatedExecutor
from proteus_cli.serving.devices.executor import Batch, BatchCallback, BatchResult, OnLost
from proteus_cli.serving.fleet.recovery import Recovery
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.requests.data_plane import DataPlaneOptions, make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, InFlightRequest, Result
from proteus_cli.serving.requests.query import Query, RequestOptions

SIGNATURE = Signature((TensorSpec("x", np.dtype(np.float32), (1,)),), (TensorSpec("y", np.dtype(np.float32), (2,)),))
LOOK_S = 0.1  # between looks of the control loop
SOLVE_S = 0.05
LOAD_S = 0.2

# By itself a device carries 100 qps of `good`, and 1000 of `fast`.
VARIANTS = (
    make_measured("f", "good", 0.9, {1: 0.01, 2: 0.02, 4: 0.04}, load_s=LOAD_S, memory_bytes=600),
    make_measured("f", "fast", 0.7, {1: 0.001, 2: 0.002, 4: 0.004}, load_s=LOAD_S, memory_bytes=500),
)


class FailingExecutor(EmulatedExecutor):
    """Takes profiled times.

    While it ``hangs`` nothing ends or is loaded, ``broken`` engines fail, ``spoilt`` ones don't load. Batches have
    computed ``slowed_by`` times as long, it says.
    """

    hangs = False

    def __init__(self, world: "World", device: str, on_lost: OnLost) -> None:
        self._loop = loop = asyncio.get_running_loop()
        super().__init__(world.profiles[device], world.signatures, loop.time, loop.call_at, on_lost)
        self.loads: list[VariantKey] = []
        self.warm_up_rows: list[int] = []
        self.gave_way: list[bool] = []
        self._giving_way_takes_s = 0.0
        self.slowed_by = 1.0
        self.batches: list[Batch] = []
        self._world = world

    async def load(self, key: VariantKey, model: Any, warm_up_rows: int, *, gives_way: bool = False) -> Signature:
        self.loads.append(key)
        self.warm_up_rows.append(warm_up_rows)
        self.gave_way.append(gives_way)
        if gives_way:
            await asyncio.sleep(self._giving_way_takes_s - LOAD_S)
        if key in self._world.spoilt:
            raise self._world.spoilt[key]
        if self.hangs:
            return await self._until_loaded(self._loop.create_future())
        return await super().load(key, model, warm_up_rows)

    def give_way(self, takes_s: float) -> None:
        """From now on, loads may give way to batches, and then take so long."""
        self.can_give_way, self._giving_way_takes_s = True, takes_s

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        self.batches.append(batch)
        if self.hangs:
            self._register(done)
        elif (self._device_id, batch.key) in self._world.broken:
            number = self._register(done)
            asyncio.get_running_loop().call_soon(lambda: self._complete(number, EngineBroken("it fails on anything")))
        elif self.slowed_by != 1.0:
            super().submit(batch, lambda result: done(self._as_slow(result)))
        else:
            super().submit(batch, done)

    def _as_slow(self, result: BatchResult | Exception) -> BatchResult:
        assert isinstance(result, BatchResult)
        return msgspec.structs.replace(result, compute_s=self.slowed_by * result.compute_s)

    def die(self) -> None:
        self.lose(DeviceLost(f"{self._device_id} was killed"))

    def lose(self, loss: DeviceLost) -> None:
        self._lose(loss)


class World:
    """``opened`` are the devices that were opened again; a device on which opening fails is in ``shut``.

    Variants may take ``resident_bytes`` of each device, standbys included.
    """

    def __init__(
        self,
        hosts: Mapping[str, str],
        *,
        devices: Sequence[str] = ("cpu0", "cpu1"),
        memory_bytes: int = 0,
        variants: tuple[VariantProfile, ...] = VARIANTS,
        replans: bool = True,
        slo: str = "200ms",
        resident_bytes: int = 0,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.catalog = make_catalog(make_family("f", {v.variant: v.accuracy for v in variants}, slo=slo))
        self._variants, self._memory_bytes, self._resident_bytes = variants, memory_bytes, resident_bytes
        self.profiles = ProfileStore({device: self.profile(device) for device in devices})
        self.planner = self.planner_of(self.profiles)
        self.signatures = {"f": SIGNATURE}
        self.spoilt: dict[VariantKey, EngineError] = {}
        self.broken: set[tuple[str, VariantKey]] = set()
        self.shut: set[str] = set()
        self.unreachable: set[str] = set()
        self.opened: list[FailingExecutor] = []
        self.asked = list[Outages]()
        self.results: list[Result] = []
        slo_s, memory = self.catalog.slo_s(), self._memory(self.profiles)
        self.controller = Controller(slo_s, dict.fromkeys(self.profiles, 1), PROTEUS, memory=memory)
        self.memory = dict[str, HostMemory]()  # by host
        self.models: Any = {(v.family, v.variant): None for v in variants}
        served = ServedFamily("f", SIGNATURE, self.catalog.slo_s()["f"], max_rows=4, best_accuracy=0.9)
        self.plane = make_data_plane(
            self.controller, [served], self.profiles, self._open, self.loop.time, models=self.models,
            profiles=self.profiles, memory_of=lambda host: self.memory.get(host, HostMemory()),
            options=DataPlaneOptions(timer_s=0.0),
        )  # fmt: skip
        self.fleet, self.lifecycle = self.plane.fleet, self.plane.lifecycle
        self.opened.clear()
        self.first = self.plan_of(hosts)
        self.recovery = Recovery(
            self.fleet, self.controller, self.profiles, self.loop.time, lambda device: device not in self.unreachable
        )
        self.versions = VersionedPlans(self.controller, self.profiles, ServedCatalog(CatalogContent(self.catalog, {})))
        self.adaptation = loop_around(self.plane, expand=self.versions.expanded)
        self.replans = replans

    def plan_of(self, hosts: Mapping[str, str], demand_qps: float = 60.0) -> Plan:
        """Each device hosts one variant, with an equal share."""
        capacity = {v.variant: v.points[0].qps for v in self._variants}
        placements = [
            make_placement(
                device, "f", variant, max_batch=4, rate_qps=demand_qps / len(hosts), share=1 / len(hosts),
                capacity_qps=capacity[variant],
            )
            for device, variant in hosts.items()
        ]  # fmt: skip
        return make_plan(*placements, demand_qps={"f": demand_qps}, devices=tuple(self.profiles))

    def join(self, device: str) -> None:
        """Another device like those that are there; plans may use it from now on."""
        self.profiles.use([self.profile(device)])
        self.planner = self.planner_of(self.profiles)
        self.fleet.add_device(device, self._memory([device]).get(device))

    def executor(self, device: str) -> FailingExecutor:
        found = self.fleet.workers[device].executor
        assert isinstance(found, FailingExecutor)
        return found

    def state(self, device: str) -> BreakerState:
        return self.fleet.breakers[device].state

    @property
    def hosts(self) -> dict[str, set[str]]:
        """What the devices that are there host."""
        found: dict[str, set[str]] = {}
        for host in self.controller.families["f"].hosts:
            if self.state(host.device) is BreakerState.CLOSED:
                found.setdefault(host.device, set()).add(host.variant)
        return found

    @property
    def counted(self) -> dict[Outcome, int]:
        counts = self.plane.counts.by_family["f"]
        return {outcome: counts.of_outcome(outcome) for outcome in Outcome if counts.of_outcome(outcome)}

    def submit(self, timeout_s: float | None = None, family: str = "f") -> InFlightRequest | None:
        """Ask for one row; None where that is refused, which is an result as well."""
        query = Query(family, 1, ((0, False),), RequestOptions(timeout_s=timeout_s))
        try:
            return self.plane.admission.submit(query, lambda: (b"\0\0\0\0",), self.results.append)
        except RequestError as error:
            self.results.append(error)
            return None

    async def ask(self, rate_qps: float, duration_s: float) -> int:
        """Ask so often, evenly, for so long; returns how many that were."""
        count = round(rate_qps * duration_s)
        for _ in range(count):
            self.submit()
            await asyncio.sleep(1 / rate_qps)
        return count

    def profile(self, device: str) -> Profile:
        """Of a device like those that are there."""
        return make_profile(device, *self._variants, memory_bytes=self._memory_bytes)

    def planner_of(self, profiles: Mapping[str, Profile]) -> Planner:
        return Planner(self.catalog, profiles, PROTEUS, headroom=1.0, inputs={}, spares=True)

    def _memory(self, devices: Iterable[str]) -> dict[str, DeviceMemory]:
        limits = dict.fromkeys(devices, self._resident_bytes)
        return device_memory(limits, self.profiles, self.catalog.slo_targets(), Rules(), self.catalog.keys)

    def _open(self, device: str, on_lost: OnLost) -> FailingExecutor:
        if device in self.shut:
            raise DeviceLost(f"{device} can't be opened")
        self.opened.append(FailingExecutor(self, device, on_lost))
        return self.opened[-1]

    async def solve(self, wanted: ReplanRequest, current: Plan, standbys: VariantsByDevice) -> Plan:
        self.asked.append(wanted.without)
        await asyncio.sleep(SOLVE_S)
        return self.planner(for_catalog(wanted.demand_qps, self.planner.catalog), current, wanted.without, standbys)


def played(test: Callable[[World], Awaitable[None]], hosts: Mapping[str, str], **options: Any) -> World:
    """Run a test in virtual time; at its end every request has ended exactly once."""

    async def run() -> World:
        world = World(hosts, **options)
        await world.adaptation.start(world.first, "start", "the first")
        world.lifecycle.on(LifecycleEvent.WARMED_UP)
        tasks = [asyncio.create_task(world.recovery.run()), asyncio.create_task(world.fleet.standbys.run())]
        if world.replans:
            tasks.append(asyncio.create_task(world.adaptation.run(LOOK_S, NeverHurried(world.solve))))
        await test(world)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
        assert world.plane.results.in_flight_count == 0
        assert sum(world.counted.values()) == len(world.results)
        assert world.fleet.away.keys() == {name for name, each in world.fleet.breakers.items() if not each.is_closed}
        return world

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


def answers(world: World) -> list[str]:
    """Who answered, in order."""
    return [result.batch.hosted.device for result in world.results if isinstance(result, Answered)]
