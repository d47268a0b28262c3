"""The simulator: one trace through the controller in virtual time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count, islice, repeat
from types import MappingProxyType

import numpy as np

from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import Policy
from proteus_cli.control.topology.hosting import device_memory, hosted_by, slots_of
from proteus_cli.domain.base import require
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Profile
from proteus_cli.domain.request import Bounds, Request, RequestRecord
from proteus_cli.domain.trace import Trace
from proteus_cli.simulation.answers import Queries, RowAnswersOf
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.simulation.fleet import Fleet, SimulationResult
from proteus_cli.simulation.losses import Losses
from proteus_cli.simulation.plan_changes import PlanChanges, ReplanFunction
from proteus_cli.simulation.timing import BatchTimes

PROGRESS_EVERY = 1000  # requests


def simulate(
    trace: Trace,
    plan: Plan,
    catalog: Catalog,
    profiles: Mapping[str, Profile],
    policy: Policy,
    replan: ReplanFunction,
    *,
    conditions: Conditions = Conditions(),  # noqa: B008 - frozen
    answers: RowAnswersOf = MappingProxyType({}),
    rng: np.random.Generator | None = None,
    progress: Callable[[float], object] = lambda _done_frac: None,
    saw: Callable[[RequestRecord], object] | None = None,
) -> SimulationResult:
    """Replay a trace on the devices of a plan.

    A batch takes the profiled mean time of its size, given the other active variants of the device, and the number of
    batches that run when it begins. ``conditions.slow`` multiplies this time. A batch of a multi-exit model takes the
    times of its stages, each for the rows that get there. Variants load beside the old ones in the profiled load time,
    then all devices switch at once, as in a live server with memory for both. With ``conditions.load_time_s``, devices
    load in place. ``rng`` is needed for jitter, and for confidences that the trace does not have, where the plan has
    cascades or exits. ``answers`` decide which rows of eval splits are deferred, and which answers are correct.
    If ``saw`` takes the records, the result has no records and no launches, which saves memory; then there can be no
    failures. An exception from ``progress`` or ``saw`` ends the simulation.

    Raises `ArtefactError` where a placement was never profiled.
    """
    require(saw is None or not conditions.failures, "failures are simulated by what has ended, so it must be kept")
    rng = rng or np.random.default_rng(0)
    queries = Queries(trace, answers, rng.spawn(1)[0])
    rule, slo_s = policy.replanning, catalog.slo_s()
    limit_bytes = {device: limit for device, limit in conditions.memory_bytes.items() if device in plan.devices}
    has_standbys = bool(limit_bytes) and policy.standbys and rule is not None
    targets, load_s = catalog.slo_targets(), conditions.load_s
    memory = (
        device_memory(limit_bytes, profiles, targets, plan.rules, catalog.keys, load_s=load_s) if has_standbys else {}
    )
    attainment = {family.name: family.attainment for family in catalog.families}
    controller = Controller(
        slo_s,
        slots_of(plan.devices, profiles),
        policy,
        max_unavailable_frac=conditions.max_unavailable_frac,
        memory=memory,
        attainment=attainment,
    )
    controller.placeable.use({each: profiles[each] for each in plan.devices if each in profiles}, catalog.keys)
    times = BatchTimes(profiles, conditions.jitter, rng)
    fleet = Fleet(controller, plan.devices, queries, times, conditions, saw)
    fleet.apply(controller.adopt(plan, hosted_by(plan, profiles, attainment), 0.0), 0.0)
    losses = Losses(conditions.failures, fleet, profiles)
    if rule is not None:  # after the losses, so that a decision knows of each loss of its moment
        PlanChanges(fleet, rule, replan, profiles, standbys=bool(memory))
    requests, arrive = _requests(trace, slo_s), fleet.arrive
    try:
        for done in range(0, len(trace), PROGRESS_EVERY):
            progress(done / len(trace))
            for request in islice(requests, PROGRESS_EVERY):
                arrive(request)
        fleet.finish()
    except KeyboardInterrupt:
        fleet.result.interrupted_s = fleet.now_s
    fleet.result.losses = losses.found
    return fleet.result


def _requests(trace: Trace, slo_s: Mapping[str, float]) -> Iterator[Request]:
    """The requests of a trace, numbered in order; a request without an SLO of its own has its family's."""
    family_slo_s = np.array([slo_s.get(family, np.nan) for family in trace.families])[trace.family]
    deadline_s = trace.arrival_s + np.where(np.isnan(trace.slo_s), family_slo_s, trace.slo_s)
    families = map(trace.families.__getitem__, trace.family.tolist())
    times = trace.arrival_s.tolist(), deadline_s.tolist()
    minima = trace.min_accuracy.tolist()
    bounds: Iterable[Bounds | None] = map(trace.bounds, range(len(trace))) if trace.has_bounds else repeat(None)
    return map(Request, count(), families, *times, repeat(1), family_slo_s.tolist(), repeat(0), minima, bounds)
