"""The live server's own code on a clock that jumps: an event loop without waiting, engines that take profiled time."""

import asyncio
import heapq
import itertools
import math
import selectors
from collections.abc import Mapping
from typing import Any

from proteus_cli.backends.base import Signature
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Decision, Launch
from proteus_cli.control.hosting import slots_of
from proteus_cli.control.policies import Policy
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import RequestError
from proteus_cli.serving.adaptation import Adaptation, Replanner
from proteus_cli.serving.dataplane import DataPlane
from proteus_cli.serving.emulation import EmulatedExecutor
from proteus_cli.serving.fleet import Fleet
from proteus_cli.serving.lifecycle import Event, Lifecycle
from proteus_cli.serving.oip import Query
from proteus_cli.simulation.run import SOLVE_S

NOTHING = Signature((), ())


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while anything is ready, then jumps to the next timer.

    Timers of the same moment fire in the order in which they were set, as in the simulator.
    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self.scheduled: list[_Timer] = []
        super().__init__(_JumpingSelector(self))
        self._scheduled = self.scheduled
        self._sequence = itertools.count()

    def time(self) -> float:
        return self.now_s

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        timer.sequence = next(self._sequence)
        heapq.heappush(self.scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def jump(self) -> None:
        self.now_s = self.scheduled[0].when()
        self._clock_resolution = math.ulp(self.now_s)  # fire what is due now, and nothing early


class _Timer(asyncio.TimerHandle):
    sequence = 0

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, _Timer)
        return (self.when(), self.sequence) < (other.when(), other.sequence)


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is scheduled: the test would wait for ever")
        if timeout > 0:
            self._loop.jump()
        return super().select(0)


class RecordingController(Controller):
    def __init__(self, slo_s: Mapping[str, float], slots: Mapping[str, int], policy: Policy) -> None:
        super().__init__(slo_s, slots, policy)
        self.launches: list[tuple[float, Launch]] = []

    def decide(self, device: str, now_s: float) -> Decision:
        decision = super().decide(device, now_s)
        if isinstance(decision, Launch):
            self.launches.append((now_s, decision))
        return decision


class LiveRun:
    """What the live code did with a trace."""

    def __init__(self) -> None:
        self.launches: list[tuple[float, Launch]] = []
        self.outcomes: dict[Outcome, int] = {}
        self.changes: list[tuple[str, int]] = []


def run_live(
    trace: Trace, plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile], policy: Policy, replan: Replanner
) -> LiveRun:
    """Feed a trace to data plane, fleet, lanes and control loop in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_run(trace, plan, catalog, profiles, policy, replan))


async def _run(
    trace: Trace, plan: Plan, catalog: Catalog, profiles: Mapping[str, Profile], policy: Policy, replan: Replanner
) -> LiveRun:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    # The first plan is there when the trace starts, as simulated.
    loop.now_s = -max(variant.load_s for profile in profiles.values() for variant in profile.variants)
    signatures = dict.fromkeys(catalog.names, NOTHING)
    controller = RecordingController(catalog.slo_s(), slots_of(plan.devices, profiles), policy)
    lifecycle = Lifecycle()
    plane = DataPlane(
        catalog,
        controller,
        lifecycle,
        loop.time,
        signatures=signatures,
        most_rows=dict.fromkeys(catalog.names, 64),
        best_accuracy={},
    )
    models: Any = {(family.name, variant.name): None for family in catalog.families for variant in family.variants}
    fleet = Fleet(
        controller,
        {device: EmulatedExecutor(profiles[device], signatures, loop.time, loop.call_at) for device in plan.devices},
        plane,
        loop.time,
        models=models,
        profiles=profiles,
        signatures=plane.signatures,
        timer_s=0.0,
    )
    plane.lanes = fleet.lanes
    await fleet.deploy(plan)
    lifecycle.on(Event.WARMED_UP)

    async def solve(demand: Demand, current: Plan) -> Plan:
        await asyncio.sleep(SOLVE_S)
        return replan(demand, current)

    adaptation = Adaptation(controller, fleet, solve, loop.time)
    control = asyncio.create_task(adaptation.run(policy.replanning.every_s)) if policy.replanning else None
    jobs = []
    for index in range(len(trace)):
        await asyncio.sleep(float(trace.arrival_s[index]) - loop.time())
        family = trace.families[trace.family[index]]
        jobs.append(asyncio.create_task(plane.infer(family, Query((), 1, ()))))
    endings = await asyncio.gather(*jobs, return_exceptions=True)
    if control is not None:
        control.cancel()
        await asyncio.gather(control, return_exceptions=True)
    unexpected = [e for e in endings if isinstance(e, BaseException) and not isinstance(e, RequestError)]
    assert not unexpected, unexpected[0]
    result = LiveRun()
    result.launches = controller.launches
    result.outcomes = {o: sum(counts.of_outcome(o) for counts in plane.counts.values()) for o in Outcome}
    result.changes = [(change.reason, change.swaps) for change in adaptation.changes]
    return result
