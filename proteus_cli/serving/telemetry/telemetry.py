"""The state of the server, read from its parts: the status, the page's history, and what the terminal shows."""

import asyncio
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import asdict

from proteus_cli import __version__
from proteus_cli.control.alarms import ShiftWatch
from proteus_cli.control.controller import Controller
from proteus_cli.control.slot_tuner import SlotTuner
from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.device import by_host
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import BadRequest, printable
from proteus_cli.serving.adaptation.control_loop import SEEN_WINDOWS_S, ControlLoop
from proteus_cli.serving.adaptation.feedback import Feedback
from proteus_cli.serving.adaptation.plan_journal import PlanJournal
from proteus_cli.serving.adaptation.recalibration import Recalibration
from proteus_cli.serving.adaptation.rollouts import VersionRollouts
from proteus_cli.serving.adaptation.shifts import Shifts
from proteus_cli.serving.adaptation.solver import SolverState
from proteus_cli.serving.devices.remote.links.link import LinkState
from proteus_cli.serving.fleet.fleet import Fleet
from proteus_cli.serving.fleet.worker import Clock
from proteus_cli.serving.lifecycle import task_errors
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.telemetry.recorder import SAMPLES, FamilyReading, Recorder
from proteus_cli.serving.telemetry.state import (
    AppliedCorrectionStatus,
    CascadeStatus,
    DeviceState,
    DriftPoint,
    DriftStatus,
    ExitsStatus,
    ExpectedQueries,
    FailureStatus,
    FamilyShifts,
    FamilyState,
    Flows,
    History,
    HostState,
    HostStatus,
    JournalStatus,
    PlanStatus,
    ServerState,
    ServerStatus,
    ShiftStatus,
    SlotChangeStatus,
    SlotLevel,
    SlotScatter,
    SlotsStatus,
)

EVERY_S = 1.0
CURSOR = "([0-9a-f]{8})-([0-9]{1,12})"
MAX_NUMBERS = 8000
"""In one answer of `Telemetry.history`: to write more would delay other requests."""

MAX_SLOTS = 6
"""Devices whose slots a history shows."""

LAST_EVENTS, LAST_FAILURES = 20, 10
_NOT_LISTED = "it is not listed any more"


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts of the server that its state is read from. None: the server has no such part.

    ``replan`` is the option. ``links`` tells how the hosts of a cluster are reached.
    """

    plane: DataPlane
    control_loop: ControlLoop
    replan: str = "off"
    solver: SolverState | None = None
    journal: PlanJournal | None = None
    recalibration: Recalibration | None = None
    links: Callable[[], Mapping[str, LinkState]] = dict
    feedback: Feedback | None = None
    shifts: Shifts | None = None
    rollouts: VersionRollouts | None = None


class Telemetry:
    """Samples the server once a second, and tells its state.

    With hundreds of devices, reading the state takes longer than a sample. It is read when it is asked for, and at each
    sample only where a thread shows it.
    """

    def __init__(self, sources: Sources, clock: Clock, unix_s: Callable[[], float] = time.time) -> None:
        self._sources, self.plane, self._clock, self._unix_s = sources, sources.plane, clock, unix_s
        self._server = secrets.token_hex(4)  # tells a cursor of this process from one of another
        self._recorder = Recorder(sources.plane, clock, sources.control_loop.changes, unix_s)
        self._shown: ServerState | None = None

    async def run(self) -> None:
        """Take a sample every `EVERY_S`, until cancelled."""
        due_s = self._clock()
        while True:
            due_s = max(due_s + EVERY_S, self._clock() + EVERY_S / 2)  # a sample that was missed is left out
            await asyncio.sleep(due_s - self._clock())
            self.sample()

    def sample(self) -> None:
        """Take a sample now."""
        self._recorder.sample()
        if self._shown is not None:
            self._shown = self.state()

    def shown(self) -> Callable[[], ServerState]:
        """From now on the state is read at each sample; returns what gives the last one, in any thread."""
        shown = self._shown = self.state()
        return lambda: self._shown or shown

    def state(self, slots: Collection[str] = ()) -> ServerState:
        """The state now; ``slots`` are the devices whose slots are told."""
        plane, sources, controller, recorder = self.plane, self._sources, self.plane.controller, self._recorder
        recorder.use()
        now_s, tails_s = self._clock(), recorder.p99_s()
        lately, recent = recorder.families(), recorder.families(SAMPLES)
        hosts = [host for family in plane.families.by_name for host in controller.families[family].hosts]
        kept, seconds = kept_fracs(controller), recorder.seconds()
        return ServerState(
            version=__version__,
            state=plane.lifecycle.state,
            policy=controller.policy.name,
            emulated=plane.is_emulated,
            inside=plane.results.in_flight_count,
            unix_s=round(self._unix_s(), 3),
            uptime_s=round(now_s - recorder.start_s, 3),
            families={
                name: self._family(name, now_s, lately[name], recent[name], tails_s[name])
                for name in plane.families.by_name
            },
            devices=self._devices(slots, now_s),
            hosts=host_statuses(plane.fleet, sources.links(), now_s),
            rollouts=sources.rollouts.status().rollouts if sources.rollouts is not None else (),
            flows=Flows(
                device=[host.device for host in hosts],
                family=[host.family for host in hosts],
                variant=[host.variant for host in hosts],
                accuracy=[host.accuracy for host in hosts],
                planned_qps=[kept.get(host.key, 1.0) * host.weight + host.deferred_qps for host in hosts],
                deferred_qps=[host.deferred_qps for host in hosts],
                answered_qps=[
                    _ratio(recorder.answered(host.family, host.variant, host.device), seconds) or 0.0 for host in hosts
                ],
            ),
            events=recorder.events.latest(LAST_EVENTS),
        )

    def _family(
        self, name: str, now_s: float, lately: FamilyReading, recent: FamilyReading, p99_s: float | None
    ) -> FamilyState:
        plane, controller, recorder = self.plane, self.plane.controller, self._recorder
        plan, served, counts = controller.plan, plane.families.by_name[name], plane.counts.by_family[name]
        target, seconds = plane.families.attainment_target(name), recorder.seconds()
        violations, all_violations = (of.late + of.dropped + of.rejected + of.failed for of in (lately, recent))
        answered, accuracy = lately.served, _ratio(lately.accuracy, lately.served)
        cascades, exits = cascades_of(controller, name), exits_of(controller, name)
        shifts = family_shifts(self._sources.shifts, name)
        rates = controller.demand.rates_qps(name, SEEN_WINDOWS_S, now_s)
        watches = (shifts.inputs, *shifts.confidence.values())
        return FamilyState(
            slo_s=served.slo_s,
            prefers=plan.rules.prefers(name),
            loaded=served.is_loaded,
            estimated=served.estimated,
            variants=served.variants,
            best_accuracy=served.best_accuracy,
            demand_qps=_ratio(lately.arrived, seconds) or 0.0,
            demand_windows_qps={f"{window_s:g}s": qps for window_s, qps in zip(SEEN_WINDOWS_S, rates, strict=True)},
            planned_qps=plan.demand_qps.get(name, 0.0),
            capacity_qps=plan.capacity_qps(name),
            throughput_qps=_ratio(lately.answered, seconds) or 0.0,
            goodput_qps=_ratio(lately.in_time, seconds) or 0.0,
            outcomes={outcome.value: counts.of_outcome(outcome) for outcome in Outcome},
            violations=_ratio(violations, violations + answered),
            accuracy=accuracy,
            effective_accuracy=counts.effective_accuracy(now_s),
            relative_accuracy=_ratio(accuracy, served.best_accuracy),
            p99_s=p99_s,
            waiting=controller.families[name].waiting,
            deferred=_part(lately.deferred, answered) if cascades or lately.deferred else None,
            fallbacks=_ratio(lately.fallbacks, lately.deferred),
            cut=_part(lately.cut, answered) if exits or lately.cut else None,
            attainment=counts.attainment(target),
            recent_attainment=Attainment.of(round(recent.served + all_violations), round(all_violations), target),
            expected_attainment=plan.expected_attainment.get(name),
            expected=ExpectedQueries(*controller.expected.counts(name, now_s)),
            cascades=cascades,
            exits=exits,
            stop_when=str(live) if (live := controller.dispatch.stop_when.get(name)) else None,
            shifts=shifts,
            shifted=any(watch is not None and watch.shifted for watch in watches),
        )

    def _devices(self, slots: Collection[str], now_s: float) -> dict[str, DeviceState]:
        fleet, controller, recorder = self.plane.fleet, self.plane.controller, self._recorder
        labels, tuners, growth, seconds = fleet.loader.labels, fleet.tuners, recorder.devices(), recorder.seconds()
        hosted, broken = defaultdict[str, list[str]](list), defaultdict[str, dict[str, str]](dict)
        for placement in controller.placements:
            hosted[placement.device].append(labels[placement.key])
        for (device, key), engine in fleet.broken_engines.breakers.items():
            if not engine.is_closed:
                broken[device][labels[key]] = engine.reason or ""
        found = {}
        for name, worker in fleet.workers.items():
            lately, breaker, retry_s = growth[name], fleet.breakers[name], fleet.retry_s(name)
            described, resident = fleet.device(name), controller.change.resident_on(name)
            found[name] = DeviceState(
                host=described.host,
                type=described.type,
                kind=described.kind,
                variants=tuple(hosted[name]),
                warm=sorted(labels[key] for key in controller.change.standbys.get(name, ())),
                cold=sum(key not in resident for key in fleet.loader.loadable(name)),
                broken=broken[name],
                load=_part(lately.busy_s, seconds) or 0.0,
                mean_batch=_ratio(lately.rows, lately.batches),
                busy_s=worker.busy_s,
                pace=controller.slowdown_of(name),
                breaker=breaker.state,
                breaker_s=now_s - breaker.since_s,
                reason=breaker.reason or "",
                retry_s=None if retry_s is None else max(0.0, retry_s - now_s),
                losses=breaker.opened,
                servers=worker.servers,
                pid=worker.executor.pid,
                slots=slots_status(tuners[name], now_s) if name in slots else None,
            )
        return found

    def history(self, since: str | None = None) -> History:
        """The state, and the samples after ``since``, the cursor of an earlier answer; all, if of another server.

        It has at most `MAX_NUMBERS`: unless the answer is ``complete``, there are more to ask for. Numbers that are not
        known are NaN, which msgspec writes as null. Raises `BadRequest`.
        """
        recorder, state = self._recorder, asdict(self.state(lately_changed(self.plane.fleet.tuners)))
        first = max(self._number(since), recorder.taken - SAMPLES)
        last = min(recorder.taken, first + max(1, MAX_NUMBERS // recorder.width))
        return History(
            **{**state, "events": recorder.events.between(first, last)},
            server=self._server,
            cursor=f"{self._server}-{last}",
            complete=last == recorder.taken,
            every_s=EVERY_S,
            keeps_s=SAMPLES * EVERY_S,
            samples=recorder.samples(first, last),
        )

    def _number(self, cursor: str | None) -> int:
        if cursor is None:
            return 0
        found = re.fullmatch(CURSOR, cursor)
        if found is None:
            raise BadRequest("`since` is the `cursor` of an earlier answer, or left out")
        return min(int(found[2]), self._recorder.taken) if found[1] == self._server else 0

    def status(self) -> ServerStatus:
        """The state, how the plan changed, and what went wrong; for people, and for `proteus replay`."""
        sources, controller, loop = self._sources, self.plane.controller, self._sources.control_loop
        plan, replanning, now_s = controller.plan, controller.replanning, self._clock()
        state = self.state(self.plane.fleet.tuners)
        families, journal = state.families, sources.journal
        return ServerStatus(
            **asdict(state),
            planned_qps=plan.demand_qps,
            slo_s={name: family.slo_s for name, family in families.items()},
            attainment_target={name: family.attainment.target for name, family in families.items()},
            best_accuracy={
                name: family.best_accuracy for name, family in families.items() if family.best_accuracy is not None
            },
            estimated=[name for name, family in families.items() if family.estimated],
            outcomes={name: family.outcomes for name, family in families.items()},
            pace={device: controller.slowdown_of(device) for device in plan.devices},
            replan=sources.replan,
            placements=controller.placements,
            changes=list(loop.changes),
            plan=PlanStatus(
                id=journal.current if journal is not None else None,
                since_unix_s=loop.latest.unix_s,
                origin=loop.latest.origin,
                reason=loop.latest.reason,
                held_s=max(0.0, replanning.held_until_s - now_s),
                objective=plan.objective,
                headroom=plan.headroom,
                effective_accuracy=plan.effective_accuracy,
                relative_accuracy=plan.relative_accuracy,
                unserved_qps=plan.unserved_qps,
            ),
            failures=FailureStatus(
                total=dict(loop.totals.failed),
                last=list(loop.failures)[-LAST_FAILURES:],
                pause_s=max(0.0, replanning.backoff.until_s - now_s),
            ),
            solver=sources.solver,
            history=JournalStatus(printable(str(journal.directory)), journal.written, journal.failed, journal.problem)
            if journal is not None
            else None,
            drift=_drift(sources.recalibration),
            background_errors=task_errors,
        )


def cascades_of(controller: Controller, family: str) -> list[CascadeStatus]:
    """The cascades of the plan in force."""
    found = []
    for route in controller.cascades.in_use:
        cascade, (observed, rows) = route.cascade, controller.cascades.observed(route)
        if cascade.family == family:
            point = cascade.point
            found.append(
                CascadeStatus(
                    cascade.first, cascade.second, point.threshold, cascade.rate_qps, point.deferred_frac,
                    cascade.deferred_qps, observed, rows,
                )
            )  # fmt: skip
    return found


def exits_of(controller: Controller, family: str) -> list[ExitsStatus]:
    """The multi-exit models that the plan in force hosts, each once."""
    found = {host.variant: host for host in controller.families[family].hosts if host.exits}
    return [ExitsStatus(name, [each.share for each in host.exits], host.cuts) for name, host in found.items()]


def kept_fracs(controller: Controller) -> dict[VariantKey, float]:
    """By variant, the planned fraction of its queries that it does not defer."""
    sent, deferred = defaultdict[VariantKey, float](float), defaultdict[VariantKey, float](float)
    for placement in controller.placements:
        sent[placement.key] += placement.rate_qps
    for cascade in controller.plan.cascades:
        deferred[VariantKey(cascade.family, cascade.first)] += cascade.deferred_qps
    return {key: max(0.0, 1 - deferred[key] / qps) if qps else 1.0 for key, qps in sent.items()}


def family_shifts(shifts: Shifts | None, family: str) -> FamilyShifts:
    """The comparisons of a family with its eval split."""

    def told(watch: ShiftWatch) -> ShiftStatus:
        return ShiftStatus(watch.rows, watch.reference_rows, watch.ratio, watch.largest, watch.is_shifted)

    if shifts is None:
        return FamilyShifts(None, {})
    inputs, confidence = shifts.inputs.get(family), shifts.confidence.items()
    return FamilyShifts(
        None if inputs is None else told(inputs),
        {key.variant: told(watch) for key, watch in confidence if key.family == family and watch is not None},
    )


def slots_status(tuner: SlotTuner, now_s: float) -> SlotsStatus:
    """The tuning of a device's slots. Rates are relative to the rate with all slots busy, times are seconds."""
    most, known, windows = tuner.max_slots, tuner.estimate, [each for each in tuner.windows if each.batches]
    return SlotsStatus(
        opened=most,
        used=tuner.slots,
        settled=tuner.settled,
        busy=tuner.bins.running,
        knee=tuner.knee,
        levels=[SlotLevel(n, round(known.of(n) / most, 4), round(known.error(n) / most, 4)) for n in known.levels]
        if known is not None
        else [],
        scatter=SlotScatter(
            slots=[each.slots for each in windows],
            running=[round(each.mean_running, 3) for each in windows],
            throughput=[round(each.work_s / each.lasted_s / most, 4) for each in windows],
            service_s=[round(each.service_s / each.batches, 6) for each in windows],
        ),
        changes=tuner.changed,
        last=[SlotChangeStatus(round(now_s - each.at_s, 3), each.slots, each.reason) for each in tuner.changes],
        trials=tuner.trials,
        begun_anew=tuner.begun_anew,
    )


def lately_changed(tuners: Mapping[str, SlotTuner]) -> Sequence[str]:
    """The `MAX_SLOTS` devices whose slots changed last."""
    return sorted(tuners, key=lambda device: -max((change.at_s for change in tuners[device].changes), default=0.0))[
        :MAX_SLOTS
    ]


def host_statuses(fleet: Fleet, links: Mapping[str, LinkState], now_s: float) -> dict[str, HostStatus]:
    """The hosts by name: those with devices, and those with ``links``. Empty without a cluster."""
    devices = by_host(fleet.workers)
    devices.pop("", None)
    found = {}
    for host in devices | dict.fromkeys(links):
        of_host, link = devices.get(host, []), links.get(host)
        working = sum(fleet.breakers[device].is_closed for device in of_host)
        servers = max((fleet.workers[device].servers for device in of_host), default=1)
        is_there = link.is_connected if link is not None else working > 0
        state = HostState.CONNECTED if is_there else HostState.LOST
        if link is None:
            # A cluster without a link to a host has left it alone; emulated hosts have no links at all.
            reason = "" if is_there else _NOT_LISTED if links else fleet.breakers[of_host[0]].reason or ""
            found[host] = HostStatus(
                state, None, reason, None, len(of_host), working, servers, None, None, None, None, listed=not links
            )
        else:
            found[host] = HostStatus(
                state, max(0.0, now_s - link.since_s), link.why, link.address, len(of_host), working, servers,
                link.losses, link.round_trip_s, link.bytes_sent, link.bytes_received, listed=link.is_listed,
            )  # fmt: skip
    return found


def _drift(recalibration: Recalibration | None) -> DriftStatus | None:
    if recalibration is None:
        return None
    return DriftStatus(
        after_s=recalibration.drift.after_s,
        recording=recalibration.is_recording,
        problem=recalibration.problem,
        points=[
            DriftPoint(*engine, estimate.batch, estimate.ratio, estimate.batches)
            for engine, estimates in recalibration.drift.off().items()
            for estimate in estimates
        ],
        corrections=recalibration.corrections,
        last=[
            AppliedCorrectionStatus(made.unix_s, of.device, of.family, of.variant, of.estimates)
            for made in recalibration.made
            for of in [made.correction]
        ],
    )


def _ratio(value: float | None, by: float | None) -> float | None:
    """None: one of both is not known, or ``by`` is zero."""
    return value / by if value is not None and by else None


def _part(value: float, by: float) -> float | None:
    ratio = _ratio(value, by)
    return None if ratio is None else min(1.0, ratio)
