"""The live server's own code on a clock that jumps, with engines that take profiled time."""

import asyncio
import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from builders import NeverHurried
from failing_hardware import FailingHardware
from looping import loop_around
from virtual_loop import VirtualLoop

from proteus_cli.arrays import Floats
from proteus_cli.backends.emulated import STUB
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import Decision, Launch
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import ReplanRequest
from proteus_cli.control.topology.hosting import device_memory, slots_of
from proteus_cli.control.topology.standbys import DeviceMemory
from proteus_cli.domain.catalog import Catalog, VariantsByDevice
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import RequestError
from proteus_cli.serving.adaptation.solver_child import Replanner
from proteus_cli.serving.fleet.recovery import Recovery
from proteus_cli.serving.lifecycle import LifecycleEvent
from proteus_cli.serving.requests.answers.second_stages import Confidence
from proteus_cli.serving.requests.data_plane import DataPlaneOptions, make_data_plane
from proteus_cli.serving.requests.families import ServedFamily
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch
from proteus_cli.serving.requests.query import Query, RequestOptions
from proteus_cli.simulation.conditions import SOLVE_S, Failure

if TYPE_CHECKING:
    from proteus_cli.serving.requests.in_flight import Result


class RecordingController(Controller):
    def __init__(
        self,
        slo_s: Mapping[str, float],
        slots: Mapping[str, int],
        policy: Policy,
        memory: Mapping[str, DeviceMemory],
    ) -> None:
        super().__init__(slo_s, slots, policy, memory=memory)
        self.launches: list[tuple[float, Launch]] = []
        decide = self.decide

        def record(device: str, now_s: float) -> Decision:
            decision = decide(device, now_s)
            if isinstance(decision, Launch):
                self.launches.append((now_s, decision))
            return decision

        self.decide = record


class LiveRun:
    """What the live code did with a trace."""

    def __init__(self) -> None:
        self.launches: list[tuple[float, Launch]] = []
        self.outcomes: dict[Outcome, int] = {}
        self.changes: list[tuple[str, int]] = []
        self.deferred = self.fallbacks = 0
        self.accuracy = 0.0
        self.answers: list[AnsweredBatch] = []
        self.cut: Counter[tuple[str, int]] = Counter()


def run_live(
    trace: Trace,
    plan: Plan,
    catalog: Catalog,
    profiles: dict[str, Profile],
    policy: Policy,
    replan: Replanner,
    failures: Sequence[Failure] = (),
    confidence: Confidence | None = None,
    memory_bytes: Mapping[str, int] = MappingProxyType({}),
) -> LiveRun:
    """Feed a trace to data plane, fleet, workers, recovery and control loop in virtual time.

    ``memory_bytes``: what variants may take of each device, standbys included.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_run(trace, plan, catalog, profiles, policy, replan, failures, confidence, memory_bytes))


def options_of(trace: Trace, index: int) -> RequestOptions:
    """What a request of a trace asks for."""
    time_s = float(trace.slo_s[index])
    minimum = float(trace.min_accuracy[index])
    return RequestOptions(None if math.isnan(time_s) else time_s, min_accuracy=minimum, bounds=trace.bounds(index))


async def _run(
    trace: Trace,
    plan: Plan,
    catalog: Catalog,
    profiles: dict[str, Profile],
    policy: Policy,
    replan: Replanner,
    failures: Sequence[Failure],
    confidence: Confidence | None,
    memory_bytes: Mapping[str, int],
) -> LiveRun:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    # The first plan is there when the trace starts, as simulated.
    loop.now_s = -max(variant.load_s for profile in profiles.values() for variant in profile.variants)
    signatures = dict.fromkeys(catalog.names, STUB)
    memory = device_memory(memory_bytes, profiles, catalog.slo_targets(), plan.rules, catalog.keys)
    controller = RecordingController(catalog.slo_s(), slots_of(plan.devices, profiles), policy, memory)
    models: Any = {(family.name, variant.name): None for family in catalog.families for variant in family.variants}

    def ranks(_rows: int) -> Floats:
        """Of the batch that was launched last: the server numbers requests as they come."""
        return trace.confidence[[request.id for request in controller.launches[-1][1].requests]]

    hardware = FailingHardware(profiles, signatures, failures, ranks)
    plane = make_data_plane(
        controller,
        [ServedFamily(name, STUB, slo_s, max_rows=64, best_accuracy=None) for name, slo_s in catalog.slo_s().items()],
        plan.devices,
        hardware.open_device,
        loop.time,
        models=models,
        profiles=profiles,
        confidence=confidence,
        options=DataPlaneOptions(timer_s=0.0),
    )
    adaptation = loop_around(plane)
    await adaptation.start(plan, "start", "the first")
    plane.lifecycle.on(LifecycleEvent.WARMED_UP)

    async def solve(wanted: ReplanRequest, current: Plan, standbys: VariantsByDevice) -> Plan:
        await asyncio.sleep(SOLVE_S)
        return replan(wanted.demand_qps, current, wanted.without, standbys)

    recovery = Recovery(plane.fleet, controller, profiles, loop.time, hardware.is_reachable)
    running = [asyncio.create_task(each) for each in (hardware.play(), recovery.run())] if failures else []
    control = (
        asyncio.create_task(adaptation.run(policy.replanning.every_s, NeverHurried(solve)))
        if policy.replanning
        else None
    )
    running.append(asyncio.create_task(plane.fleet.standbys.run()))
    results: list[asyncio.Future[Result]] = []
    for index in range(len(trace)):
        await asyncio.sleep(float(trace.arrival_s[index]) - loop.time())
        family = trace.families[trace.family[index]]
        result: asyncio.Future[Result] = loop.create_future()
        with contextlib.suppress(RequestError):  # a refusal is counted
            plane.admission.submit(Query(family, 1, (), options_of(trace, index)), tuple, result.set_result)
            results.append(result)
    await asyncio.gather(*results)
    for task in [*running, control]:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    run = LiveRun()
    run.answers = [each.batch for result in results if isinstance(each := result.result(), Answered)]
    run.launches = controller.launches
    run.outcomes = {outcome: plane.counts.of_outcome(outcome) for outcome in Outcome}
    counts = plane.counts.by_family.values()
    run.deferred, run.fallbacks = sum(of.deferred for of in counts), sum(of.fallbacks for of in counts)
    run.accuracy = sum(of.accuracy for of in counts)
    run.cut = sum((of.cut for of in counts), Counter())
    run.changes = [(change.reason, change.swaps) for change in adaptation.changes]
    return run
