"""``/metrics``: Triton's names for dashboards that exist, ours beside them. `docs/observability.md` lists them all."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from proteus_cli import __version__
from proteus_cli.control.breaker import BreakerState
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.adaptation.control_loop import ChangeTotals
from proteus_cli.serving.lifecycle import ServerState
from proteus_cli.serving.oip import tensors as oip
from proteus_cli.serving.requests.counts import FamilyCounts, Histogram
from proteus_cli.serving.requests.data_plane import DataPlane
from proteus_cli.serving.telemetry.exposition import (
    OPENMETRICS,
    TEXT,
    Exposition,
    MetricDescription,
    MetricKind,
    wants_openmetrics,
)
from proteus_cli.serving.telemetry.loop_lag import LoopLag
from proteus_cli.serving.telemetry.status import DEMAND_WINDOW_S, StatusSources
from proteus_cli.serving.transport.connections import Connections

Samples = Iterable[tuple[Sequence[str], float]]


def _counter(name: str, text: str, *labels: str) -> MetricDescription:
    return MetricDescription(name, MetricKind.COUNTER, text, labels)


def _gauge(name: str, text: str, *labels: str) -> MetricDescription:
    return MetricDescription(name, MetricKind.GAUGE, text, labels)


def _histogram(name: str, text: str, *labels: str) -> MetricDescription:
    return MetricDescription(name, MetricKind.HISTOGRAM, text, labels)


# --- by family

REQUESTS = _counter(
    "proteus_requests_total", "Requests by how they ended.", "family", "variant", "device", "outcome"
)  # fmt: skip
_COUNTERS: tuple[tuple[MetricDescription, Callable[[FamilyCounts], float]], ...] = (
    (
        _counter("proteus_cancelled_requests_total", "Dropped requests whose clients had gone.", "family"),
        lambda counts: counts.cancelled,
    ),
    (
        _counter("proteus_retried_requests_total", "Requests run again, as a device was lost that ran them.", "family"),
        lambda counts: counts.retried,
    ),
    (
        _counter("proteus_accuracy_total", "Accuracy of what answered, summed over served requests.", "family"),
        lambda counts: counts.accuracy,
    ),
)
_HISTOGRAMS: tuple[tuple[MetricDescription, Callable[[FamilyCounts], Histogram]], ...] = (
    (
        _histogram("proteus_request_latency_seconds", "Time from arrival to the end of the batch.", "family"),
        lambda counts: counts.latency,
    ),
    (
        _histogram("proteus_queue_duration_seconds", "Time from arrival to the start of the batch.", "family"),
        lambda counts: counts.queue,
    ),
    (
        _histogram("proteus_compute_duration_seconds", "Time that batches ran.", "family"),
        lambda counts: counts.compute,
    ),
    (_histogram("proteus_batch_size", "Rows of batches.", "family"), lambda counts: counts.batch),
)
_GAUGES: tuple[tuple[MetricDescription, Callable[[DataPlane, str, float], float | None]], ...] = (
    (
        _gauge("proteus_effective_accuracy", "Mean accuracy of what answered in the last 10 s.", "family"),
        lambda plane, family, now_s: plane.counts.by_family[family].effective_accuracy(now_s),
    ),
    (
        _gauge("proteus_best_accuracy", "Accuracy of the best variant.", "family"),
        lambda plane, family, _: plane.families.by_name[family].best_accuracy,
    ),
    (
        _gauge("proteus_slo_seconds", "Latency that requests should be answered within.", "family"),
        lambda plane, family, _: plane.families.by_name[family].slo_s,
    ),
    (
        _gauge("proteus_demand_qps", "Rows that arrived in the last second.", "family"),
        lambda plane, family, now_s: plane.controller.demand.rate_qps(family, DEMAND_WINDOW_S, now_s),
    ),
    (
        _gauge("proteus_planned_demand_qps", "Demand that the plan in force was made for.", "family"),
        lambda plane, family, _: plane.controller.plan.demand_qps.get(family, 0.0),
    ),
    (
        _gauge("proteus_queue_depth", "Requests that wait.", "family"),
        lambda plane, family, _: plane.controller.waiting_of(family),
    ),
)

# --- Triton's. A request that misses its deadline is "rejected" in the queue there, and nothing while it runs.

_FAILURE = _counter("nv_inference_request_failure", "Requests that ended otherwise.", "model", "version", "reason")
_PENDING = _gauge("nv_inference_pending_request_count", "Requests that wait.", "model", "version")
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
    ("nv_inference_exec_count", "Batches run.", lambda of: sum(of.batch.counts)),
    ("nv_inference_request_duration_us", "From arrival to answer, of successes.", lambda of: round(of.request_s * 1e6)),
    ("nv_inference_queue_duration_us", "Waited before the batch, of successes.", lambda of: round(of.queue_s * 1e6)),
    ("nv_inference_compute_infer_duration_us", "In batches, of successes.", lambda of: round(of.compute_s * 1e6)),
)

# --- by device, of plans, of the server

BUSY = _counter(
    "proteus_device_busy_seconds_total", "Time that the device ran batches, one or several at once.", "device"
)
PACE = _gauge("proteus_device_pace", "How many times longer than profiled batches take.", "device")
BREAKER = _gauge("proteus_device_breaker", "1 for the state that the device's breaker is in.", "device", "state")
LOSSES = _counter("proteus_device_losses_total", "How often the device was lost.", "device")
BROKEN = _gauge(
    "proteus_engine_broken", "1 while plans do without a variant that fails there.", "device", "family", "variant"
)  # fmt: skip
PLAN = _gauge("proteus_plan_info", "What the plan in force hosts.", "device", "family", "variant")
_CHANGES: tuple[tuple[MetricDescription, Callable[[ChangeTotals], float]], ...] = (
    (_counter("proteus_plan_changes_total", "Changes of plan."), lambda changes: changes.made),
    (_counter("proteus_plan_swaps_total", "Variants loaded by changes of plan."), lambda changes: changes.swaps),
    (_counter("proteus_plan_solve_seconds_total", "Time spent on solving."), lambda changes: changes.solve_s),
    (_counter("proteus_plan_change_seconds_total", "Time from wish to switch."), lambda changes: changes.total_s),
    (_gauge("proteus_plan_timestamp_seconds", "When the plan in force was adopted."), lambda changes: changes.unix_s),
)
DRIFT = _gauge(
    "proteus_profile_drift", "What batches lately take over what the profile says.", "device", "family", "variant"
)  # fmt: skip
CORRECTIONS = _counter("proteus_profile_corrections_total", "Variants on a device whose profile was re-estimated.")
FAILURES = _counter("proteus_plan_failures_total", "Changes of plan that failed.", "cause")
SOLVES = _counter("proteus_solver_solves_total", "Questions that the solver was asked.")
RESTARTS = _counter("proteus_solver_restarts_total", "Processes of the solver that died or hung, and were replaced.")
HISTORY_FAILURES = _counter("proteus_plan_history_failures_total", "Writes to plans/history/ that failed.")
BUILD = _gauge("proteus_build_info", "What runs.", "version", "python")
EMULATED = _gauge("proteus_emulated", "1 where devices are emulated: then no time here was measured.")
READY = _gauge("proteus_ready", "1 while requests are taken.")
INSIDE = _gauge("proteus_requests_in_flight", "Requests that wait or run.")
REFUSED = _counter("proteus_refused_requests_total", "Requests answered with an error at the door.", "error")
CONNECTIONS = _gauge("proteus_connections", "Open connections.")
TURNED_AWAY = _counter("proteus_refused_connections_total", "Connections refused, as there were too many.")
BODIES = _gauge("proteus_open_body_bytes", "Memory held for large bodies that come in or are inside.")
LAG = _histogram("proteus_event_loop_lag_seconds", "How late the event loop runs what is due.")


class Metrics:
    """All that the server counts, shown as it is when asked for."""

    def __init__(self, server: StatusSources, connections: Connections, lag: LoopLag) -> None:
        self._server, self._plane, self._connections, self._lag = server, server.plane, connections, lag
        registry = CollectorRegistry()
        self._collectors = ProcessCollector(registry=registry), GCCollector(registry=registry)

    def page(self, accept: bytes) -> tuple[bytes, bytes]:
        """The metrics, and the content type of what they are written in; ``accept`` is what the client takes."""
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
        for metric, histogram in _HISTOGRAMS:
            exposition.add_histograms(metric, [((family,), histogram(of)) for family, of in counts.items()])
        for metric, level in _GAUGES:
            levels = ((family, level(plane, family, now_s)) for family in counts)
            exposition.add(metric, [((family,), value) for family, value in levels if value is not None])

    def _devices(self, exposition: Exposition) -> None:
        fleet, controller = self._plane.fleet, self._plane.controller
        exposition.add(BUSY, [((device,), worker.busy_s) for device, worker in fleet.workers.items()])
        exposition.add(PACE, [((device,), controller.slowdown_of(device)) for device in fleet.workers])
        states = [(device, state) for device in fleet.breakers for state in BreakerState]
        exposition.add(
            BREAKER, [((device, state), int(fleet.breakers[device].state is state)) for device, state in states]
        )
        exposition.add(LOSSES, [((device,), breaker.opened) for device, breaker in fleet.breakers.items()])
        engines = {(p.device, p.family, p.variant): 0 for p in controller.placements}
        engines |= {(device, *key): int(not breaker.is_closed) for (device, key), breaker in fleet.broken.items()}
        exposition.add(BROKEN, engines.items())
        exposition.add(PLAN, [((p.device, p.family, p.variant), 1) for p in controller.placements])

    def _plans(self, exposition: Exposition) -> None:
        server = self._server
        totals = server.control_loop.totals
        for metric, value in _CHANGES:
            exposition.add(metric, [((), value(totals))])
        exposition.add(FAILURES, [((cause,), number) for cause, number in totals.failed.items()])
        exposition.add(SOLVES, [((), server.solver.solves if server.solver is not None else 0)])
        exposition.add(RESTARTS, [((), server.solver.restarts if server.solver is not None else 0)])
        if server.recalibration is not None:
            exposition.add(DRIFT, server.recalibration.drift.ratios().items())
            exposition.add(CORRECTIONS, [((), server.recalibration.corrections)])
        if server.journal is not None:
            exposition.add(HISTORY_FAILURES, [((), server.journal.failed)])

    def _process(self, exposition: Exposition) -> None:
        plane, connections = self._plane, self._connections
        exposition.add(BUILD, [((__version__, platform.python_version()), 1)])
        exposition.add(EMULATED, [((), int(plane.is_emulated))])
        exposition.add(READY, [((), int(plane.lifecycle.state is ServerState.READY))])
        exposition.add(INSIDE, [((), plane.results.in_flight)])
        exposition.add(REFUSED, [((error,), number) for error, number in plane.counts.refusals.items()])
        exposition.add(CONNECTIONS, [((), len(connections))])
        exposition.add(TURNED_AWAY, [((), connections.refused_count)])
        exposition.add(BODIES, [((), connections.body_bytes)])
        exposition.add_histograms(LAG, [((), self._lag.late_s)])

    def _triton(self, exposition: Exposition) -> None:
        counts = self._plane.counts.by_family
        for name, text, value in _TRITON:
            exposition.add(
                _counter(name, text, "model", "version"),
                [((family, oip.VERSION), value(of)) for family, of in counts.items()],
            )
        exposition.add(
            _FAILURE,
            [((family, oip.VERSION, reason), of(counts[family])) for family in counts for reason, of in _REASONS],
        )
        waiting = self._plane.controller.waiting_of
        exposition.add(_PENDING, [((family, oip.VERSION), waiting(family)) for family in counts])


def _outcomes(counts: Mapping[str, FamilyCounts]) -> Iterator[tuple[Sequence[str], float]]:
    for family, of in counts.items():
        for (variant, device, outcome), number in of.outcomes.items():
            yield (family, variant, device, outcome), number
