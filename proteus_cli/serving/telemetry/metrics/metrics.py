"""``/metrics``: our metrics, and Triton's for dashboards that exist. `docs/observability.md` lists them all."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from proteus_cli import __version__
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import keys
from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.domain.attainment import Attainment
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.adaptation.control_loop import ChangeTotals
from proteus_cli.serving.fleet.fleet import Fleet
from proteus_cli.serving.lifecycle import ServerState, task_errors
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.requests.counts import FamilyCounts, Histogram
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.telemetry.loop_lag import LoopLag
from proteus_cli.serving.telemetry.metrics.cascades import add_cascades, add_conditions, add_cut
from proteus_cli.serving.telemetry.metrics.exposition import (
    OPENMETRICS,
    TEXT,
    Exposition,
    MetricDescription,
    counter,
    gauge,
    histogram,
    wants_openmetrics,
)
from proteus_cli.serving.telemetry.metrics.feedback import add_feedback
from proteus_cli.serving.telemetry.metrics.hosts import add_devices, add_hosts, add_sharing
from proteus_cli.serving.telemetry.metrics.rollouts import add_rollouts
from proteus_cli.serving.telemetry.metrics.samples import add_samples
from proteus_cli.serving.telemetry.metrics.shifts import add_shifts
from proteus_cli.serving.telemetry.metrics.slots import add_slots
from proteus_cli.serving.telemetry.status import DEMAND_WINDOW_S, StatusSources
from proteus_cli.serving.transport.connections import Connections

# --- by family

REQUESTS = counter("proteus_requests_total", "Requests by outcome.", "family", "variant", "device", "outcome")
_COUNTERS: tuple[tuple[MetricDescription, Callable[[FamilyCounts], float]], ...] = (
    (
        counter("proteus_cancelled_requests_total", "Dropped requests whose clients had gone.", "family"),
        lambda counts: counts.cancelled,
    ),
    (
        counter("proteus_retried_requests_total", "Requests run again, as their device was lost.", "family"),
        lambda counts: counts.retried,
    ),
    (
        counter("proteus_deferred_requests_total", "Answered requests that a first stage was not sure of.", "family"),
        lambda counts: counts.deferred,
    ),
    (
        counter(
            "proteus_fallback_answers_total", "Deferred requests that got the first answer all the same.", "family"
        ),
        lambda counts: counts.fallbacks,
    ),
    (
        counter("proteus_overflow_answers_total", "Served requests that a standby answered: the overflow.", "family"),
        lambda counts: counts.overflow,
    ),
    (
        counter("proteus_accuracy_total", "Sum of the accuracies of served requests.", "family"),
        lambda counts: counts.accuracy,
    ),
)
_HISTOGRAMS: tuple[tuple[MetricDescription, Callable[[FamilyCounts], Histogram]], ...] = (
    (
        histogram("proteus_request_latency_seconds", "Time from arrival to the end of the batch.", "family"),
        lambda counts: counts.latency,
    ),
    (
        histogram("proteus_queue_duration_seconds", "Time from admission to the start of the batch.", "family"),
        lambda counts: counts.queue,
    ),
    (
        histogram("proteus_compute_duration_seconds", "Time for which batches ran.", "family"),
        lambda counts: counts.compute,
    ),
    (histogram("proteus_batch_size", "Rows of batches.", "family"), lambda counts: counts.batch),
)
_GAUGES: tuple[tuple[MetricDescription, Callable[[DataPlane, str, float], float | None]], ...] = (
    (
        gauge("proteus_effective_accuracy", "Mean accuracy of requests served in the last 10 s.", "family"),
        lambda plane, family, now_s: plane.counts.by_family[family].effective_accuracy(now_s),
    ),
    (
        gauge("proteus_best_accuracy", "Accuracy of the best variant.", "family"),
        lambda plane, family, _: plane.families.by_name[family].best_accuracy,
    ),
    (
        gauge("proteus_slo_seconds", "Latency target.", "family"),
        lambda plane, family, _: plane.families.by_name[family].slo_s,
    ),
    (
        gauge("proteus_attainment_target", "Share of requests that must be in time.", "family"),
        lambda plane, family, _: plane.families.attainment_target(family),
    ),
    (
        gauge(
            "proteus_error_budget_used_ratio",
            "SLO violations since the start, over those that the target allows.",
            "family",
        ),
        lambda plane, family, _: _attainment(plane, family).error_budget_used,
    ),
    (
        gauge("proteus_demand_qps", "Rows that arrived in the last second.", "family"),
        lambda plane, family, now_s: plane.controller.demand.rate_qps(family, DEMAND_WINDOW_S, now_s),
    ),
    (
        gauge("proteus_planned_demand_qps", "Demand that the plan in force was made for.", "family"),
        lambda plane, family, _: plane.controller.plan.demand_qps.get(family, 0.0),
    ),
    (
        gauge("proteus_queue_depth", "Requests in the queues.", "family"),
        lambda plane, family, _: plane.controller.families[family].waiting,
    ),
)

# --- Triton's. A request that misses its deadline is "rejected" in the queue there, and nothing while it runs.

_FAILURE = counter("nv_inference_request_failure", "Requests that ended otherwise.", "model", "version", "reason")
_PENDING = gauge("nv_inference_pending_request_count", "Requests in the queues.", "model", "version")
_REASONS: tuple[tuple[str, Callable[[FamilyCounts], float]], ...] = (
    (
        "REJECTED",
        lambda of: of.of_outcome(Outcome.REJECTED) + of.of_outcome(Outcome.DROPPED) - of.cancelled,
    ),
    ("CANCELED", lambda of: of.cancelled),
    ("BACKEND", lambda of: of.of_outcome(Outcome.FAILED)),
    ("OTHER", lambda of: of.of_outcome(Outcome.LATE)),
)
_TRITON: tuple[tuple[str, str, Callable[[FamilyCounts], float]], ...] = (
    ("nv_inference_request_success", "Requests answered in time.", lambda of: of.of_outcome(Outcome.SERVED)),
    ("nv_inference_count", "Rows of requests answered in time.", lambda of: of.rows),
    ("nv_inference_exec_count", "Batches that ran.", lambda of: sum(of.batch.counts)),
    (
        "nv_inference_request_duration_us",
        "Time from arrival to answer, of successes.",
        lambda of: round(of.request_s * 1e6),
    ),
    ("nv_inference_queue_duration_us", "Time in the queue, of successes.", lambda of: round(of.queue_s * 1e6)),
    (
        "nv_inference_compute_input_duration_us",
        "Time of decoding long requests before they are admitted, of successes.",
        lambda of: round(of.decoding_s * 1e6),
    ),
    ("nv_inference_compute_infer_duration_us", "Time in batches, of successes.", lambda of: round(of.compute_s * 1e6)),
)

# --- by device, of plans, of the server

BUSY = counter("proteus_device_busy_seconds_total", "Time in which at least one batch ran.", "device")
SLOWDOWN = gauge("proteus_device_pace", "Slowdown: measured over profiled batch time.", "device")
BREAKER = gauge("proteus_device_breaker", "1 for the state of the device's breaker.", "device", "state")
LOSSES = counter("proteus_device_losses_total", "How often the device was lost.", "device")
BROKEN = gauge(
    "proteus_engine_broken", "1 while plans leave out a variant that fails there.", "device", "family", "variant"
)  # fmt: skip
PLAN = gauge("proteus_plan_info", "What the plan in force hosts.", "device", "family", "variant")
STATE = gauge(
    "proteus_variant_state", "2: active, as the plan has it there. 1: warm, a standby. 0: cold.",
    "device", "family", "variant",
)  # fmt: skip
_CHANGES: tuple[tuple[MetricDescription, Callable[[ChangeTotals], float]], ...] = (
    (counter("proteus_plan_changes_total", "Changes of plan."), lambda changes: changes.made),
    (counter("proteus_plan_swaps_total", "Variants loaded by changes of plan."), lambda changes: changes.swaps),
    (
        counter("proteus_plan_activations_total", "Standbys activated by changes of plan."),
        lambda changes: changes.activated,
    ),
    (counter("proteus_plan_solve_seconds_total", "Time spent on solving."), lambda changes: changes.solve_s),
    (
        counter("proteus_plan_change_seconds_total", "Time from the request for a change until it was made."),
        lambda changes: changes.total_s,
    ),
    (gauge("proteus_plan_timestamp_seconds", "When the plan in force was adopted."), lambda changes: changes.unix_s),
)
DRIFT = gauge(
    "proteus_profile_drift", "Recent batch times over profiled ones.", "device", "family", "variant"
)  # fmt: skip
CORRECTIONS = counter("proteus_profile_corrections_total", "Corrected profiles of a variant on a device.")
FAILURES = counter("proteus_plan_failures_total", "Changes of plan that failed.", "cause")
SOLVES = counter("proteus_solver_solves_total", "Solves that were asked for.")
RESTARTS = counter("proteus_solver_restarts_total", "Processes of the solver that died or hung, and were replaced.")
JOURNAL_FAILURES = counter("proteus_plan_history_failures_total", "Writes to plans/history/ that failed.")
BUILD = gauge("proteus_build_info", "The versions that run.", "version", "python")
EMULATED = gauge("proteus_emulated", "1 where devices are emulated: no time here is a measurement.")
READY = gauge("proteus_ready", "1 while requests are taken.")
IN_FLIGHT = gauge("proteus_requests_in_flight", "Requests that wait or run.")
REFUSED = counter("proteus_refused_requests_total", "Requests answered with an error at admission.", "error")
CONNECTIONS = gauge("proteus_connections", "Open connections.")
REFUSED_CONNECTIONS = counter("proteus_refused_connections_total", "Connections refused, as there were too many.")
BODIES = gauge("proteus_open_body_bytes", "Memory of large request bodies.")
TASK_ERRORS = counter(
    "proteus_background_errors_total", "Unexpected errors of background tasks, which were started again.", "task"
)
LAG = histogram("proteus_event_loop_lag_seconds", "Delay with which the event loop runs a timer.")


class Metrics:
    """All metrics of the server, read when they are asked for."""

    def __init__(self, sources: StatusSources, connections: Connections, lag: LoopLag) -> None:
        self._sources, self._plane, self._connections, self._lag = sources, sources.plane, connections, lag
        registry = CollectorRegistry()
        self._collectors = ProcessCollector(registry=registry), GCCollector(registry=registry)

    def page(self, accept: bytes) -> tuple[bytes, bytes]:
        """The metrics, and their content type; ``accept`` is what the client takes."""
        openmetrics = wants_openmetrics(accept)
        exposition = Exposition(openmetrics=openmetrics)
        for write in (self._families, self._devices, self._plans, self._process, self._triton):
            write(exposition)
        for collector in self._collectors:
            for metric in collector.collect():
                exposition.add_foreign(metric)
        return exposition.finished(), OPENMETRICS if openmetrics else TEXT

    def _families(self, exposition: Exposition) -> None:
        plane, counts, now_s = self._plane, self._plane.counts.by_family, self._plane.clock()
        exposition.add(REQUESTS, _outcomes(counts))
        for metric, count in _COUNTERS:
            exposition.add(metric, [((family,), count(of)) for family, of in counts.items()])
        for metric, histogram_of in _HISTOGRAMS:
            exposition.add_histograms(metric, [((family,), histogram_of(of)) for family, of in counts.items()])
        for metric, level in _GAUGES:
            levels = ((family, level(plane, family, now_s)) for family in counts)
            exposition.add(metric, [((family,), value) for family, value in levels if value is not None])
        add_cascades(exposition, plane.controller)
        add_cut(exposition, {family: of.cut for family, of in counts.items()})
        if self._sources.accuracies is not None:
            add_feedback(exposition, self._sources.accuracies.plain, self._sources.accuracies.staged)
        add_conditions(exposition, plane.controller.dispatch.stop_when)
        if (rollouts := self._sources.rollouts) is not None:
            add_rollouts(exposition, counts, rollouts.all, rollouts.ended)
        if self._sources.shifts is not None:
            add_shifts(exposition, self._sources.shifts.inputs, self._sources.shifts.confidence)
        if plane.samples is not None:
            add_samples(exposition, plane.samples.counts())

    def _devices(self, exposition: Exposition) -> None:
        fleet, controller = self._plane.fleet, self._plane.controller
        exposition.add(BUSY, [((device,), worker.busy_s) for device, worker in fleet.workers.items()])
        exposition.add(SLOWDOWN, [((device,), controller.slowdown_of(device)) for device in fleet.workers])
        states = [(device, state) for device in fleet.breakers for state in BreakerState]
        exposition.add(
            BREAKER, [((device, state), int(fleet.breakers[device].state is state)) for device, state in states]
        )
        exposition.add(LOSSES, [((device,), breaker.opened) for device, breaker in fleet.breakers.items()])
        engines = {(p.device, p.family, p.variant): 0 for p in controller.placements}
        broken = fleet.broken_engines.breakers.items()
        engines |= {(device, *key): int(not breaker.is_closed) for (device, key), breaker in broken}
        exposition.add(BROKEN, engines.items())
        exposition.add(STATE, _states(fleet, controller))
        exposition.add(PLAN, [((p.device, p.family, p.variant), 1) for p in controller.placements])
        profiles = self._sources.profiles.items()
        add_devices(exposition, [profile.device for device, profile in profiles if device in fleet.workers])
        add_sharing(exposition, {device: (each.servers, each.waited_s) for device, each in fleet.workers.items()})
        add_slots(exposition, fleet.tuners, self._plane.clock())
        add_hosts(exposition, self._sources.hosts())

    def _plans(self, exposition: Exposition) -> None:
        sources = self._sources
        totals = sources.control_loop.totals
        for metric, value in _CHANGES:
            exposition.add_number(metric, value(totals))
        exposition.add(FAILURES, [((cause,), number) for cause, number in totals.failed.items()])
        exposition.add_number(SOLVES, sources.solver.solves if sources.solver is not None else 0)
        exposition.add_number(RESTARTS, sources.solver.restarts if sources.solver is not None else 0)
        if sources.recalibration is not None:
            exposition.add(DRIFT, sources.recalibration.drift.ratios().items())
            exposition.add_number(CORRECTIONS, sources.recalibration.corrections)
        if sources.journal is not None:
            exposition.add_number(JOURNAL_FAILURES, sources.journal.failed)

    def _process(self, exposition: Exposition) -> None:
        plane, connections = self._plane, self._connections
        exposition.add(BUILD, [((__version__, platform.python_version()), 1)])
        exposition.add_number(EMULATED, int(plane.is_emulated))
        exposition.add_number(READY, int(plane.lifecycle.state is ServerState.READY))
        exposition.add_number(IN_FLIGHT, plane.results.in_flight_count)
        exposition.add(REFUSED, [((error,), number) for error, number in plane.counts.refusals.items()])
        exposition.add(TASK_ERRORS, [((task,), errors.total) for task, errors in task_errors.items()])
        exposition.add_number(CONNECTIONS, len(connections))
        exposition.add_number(REFUSED_CONNECTIONS, connections.refused_count)
        exposition.add_number(BODIES, connections.body_bytes)
        exposition.add_histograms(LAG, [((), self._lag.late_s)])

    def _triton(self, exposition: Exposition) -> None:
        counts = self._plane.counts.by_family
        for name, text, value in _TRITON:
            exposition.add(
                counter(name, text, "model", "version"),
                [((family, oip.VERSION), value(of)) for family, of in counts.items()],
            )
        exposition.add(
            _FAILURE,
            [((family, oip.VERSION, reason), of(counts[family])) for family in counts for reason, of in _REASONS],
        )
        waiting = {name: family.waiting for name, family in self._plane.controller.families.items()}
        exposition.add(_PENDING, [((family, oip.VERSION), waiting[family]) for family in counts])


def _states(fleet: Fleet, controller: Controller) -> Iterator[tuple[Sequence[str], float]]:
    """Of each variant that was profiled on a device and has a model."""
    for device in fleet.workers:
        change = controller.change
        active, resident = keys(change.hosted_on(device)), change.resident_on(device)
        for key in fleet.loader.loadable(device):
            yield (device, *key), 2 if key in active else int(key in resident)


def _attainment(plane: DataPlane, family: str) -> Attainment:
    return plane.counts.by_family[family].attainment(plane.families.attainment_target(family))


def _outcomes(counts: Mapping[str, FamilyCounts]) -> Iterator[tuple[Sequence[str], float]]:
    for family, of in counts.items():
        for (variant, device, outcome), number in of.outcomes.items():
            yield (family, variant, device, outcome), number
