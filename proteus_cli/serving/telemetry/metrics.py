"""``/metrics``: our metrics, and Triton's for dashboards that exist. `docs/observability.md` lists them all.

A scrape reads the counters of the server by a collector of `prometheus_client`. Requests only add to plain numbers.
Functions here yield a `Description` for each metric. A metric whose name ends in ``_total`` is a counter; all others
are gauges and histograms. A number that is None is left out, and so is a metric without numbers.
"""

import asyncio
import platform
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from time import monotonic
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, Metric, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from proteus_cli import __version__
from proteus_cli.control.alarms import LiveAccuracy, ShiftWatch
from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import keys
from proteus_cli.control.devices.breaker import BreakerState
from proteus_cli.control.slot_tuner import SlotTuner
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.device import host_of
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.rollouts import Ending, RolloutStage, RolloutStatus
from proteus_cli.serving.lifecycle import ServerState, task_errors
from proteus_cli.serving.oip.tensors import VERSION
from proteus_cli.serving.requests.counts import FamilyCounts, Histogram
from proteus_cli.serving.requests.samples.capture import SampleCounts
from proteus_cli.serving.telemetry.state import HostState, HostStatus
from proteus_cli.serving.telemetry.telemetry import Sources, host_statuses
from proteus_cli.serving.transport.connections import Connections

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"

LAG_EVERY_S = 0.25
LAG_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Number = float | Histogram | None
Subject = TypeVar("Subject")
Row = tuple[str, str, Callable[[Subject], Number]]
"""A metric that each of several subjects has: name, help text, and the number of a subject."""

Description = tuple[str, str, str, Mapping[Any, Number]]
"""A metric: name, help text, names of its labels, and its numbers by the values of the labels."""

VARIANT = "device family variant"


class LoopLag:
    """Counts by how much timers of the event loop are late, every `LAG_EVERY_S`. Timers are exact to 1 ms."""

    def __init__(self) -> None:
        self.late_s = Histogram(LAG_BOUNDS_S)

    async def watch(self) -> None:
        """Measure, until cancelled."""
        while True:
            due_s = monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.late_s.add(max(0.0, monotonic() - due_s))


class Metrics:
    """All metrics of the server, read when they are asked for."""

    def __init__(self, sources: Sources, connections: Connections, lag: LoopLag) -> None:
        self._sources, self._plane, self._connections, self._lag = sources, sources.plane, connections, lag
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        GCCollector(registry=self._process)

    async def page(self, accept: bytes) -> tuple[bytes, bytes]:
        """The metrics, and their content type; ``accept`` is what the client takes.

        A thread writes the text, so that the metrics of a large deployment delay no request.
        """
        wants_openmetrics = b"application/openmetrics-text" in accept
        read = [(name, text, labels, dict(numbers)) for name, text, labels, numbers in self.descriptions()]
        content = await asyncio.to_thread(
            lambda: written(read, self._process.collect(), wants_openmetrics=wants_openmetrics)
        )
        return content, OPENMETRICS if wants_openmetrics else TEXT

    def descriptions(self) -> Iterator[Description]:
        """The metrics of the server, without the metrics of its process."""
        sources, plane, now_s = self._sources, self._plane, self._plane.clock()
        counts = plane.counts.by_family
        yield from self._families(counts, now_s)
        yield from cut_metrics({family: of.cut for family, of in counts.items()})
        yield from cascade_metrics(plane.controller)
        yield from condition_metrics(plane.controller.dispatch.stop_when)
        if sources.feedback is not None:
            yield from feedback_metrics(sources.feedback.plain, sources.feedback.staged)
        if sources.rollouts is not None:
            yield from rollout_metrics(counts, sources.rollouts.all, sources.rollouts.ended)
        if sources.shifts is not None:
            yield from shift_metrics(sources.shifts.inputs, sources.shifts.confidence)
        if plane.samples is not None:
            yield from sample_metrics(plane.samples.counts())
        yield from self._devices()
        yield from slot_metrics(plane.fleet.tuners, now_s)
        yield from host_metrics(host_statuses(plane.fleet, sources.links(), now_s))
        yield from self._server()
        yield from self._triton(counts)

    def _families(self, counts: Mapping[str, FamilyCounts], now_s: float) -> Iterator[Description]:
        controller, families = self._plane.controller, self._plane.families
        yield (
            "proteus_requests_total", "Requests by outcome.", "family variant device outcome",
            {(family, *key): number for family, of in counts.items() for key, number in of.outcomes.items()},
        )  # fmt: skip
        yield from _each(
            "family", counts,
            ("proteus_cancelled_requests_total", "Dropped requests whose clients had gone.", lambda of: of.cancelled),
            ("proteus_retried_requests_total", "Requests run again, as their device was lost.", lambda of: of.retried),
            (
                "proteus_deferred_requests_total", "Answered requests that a first stage was not sure of.",
                lambda of: of.deferred,
            ),
            (
                "proteus_fallback_answers_total", "Deferred requests that got the first answer all the same.",
                lambda of: of.fallbacks,
            ),
            (
                "proteus_overflow_answers_total", "Served requests that a standby answered: the overflow.",
                lambda of: of.overflow,
            ),
            ("proteus_accuracy_total", "Sum of the accuracies of served requests.", lambda of: of.accuracy),
            ("proteus_request_latency_seconds", "Time from arrival to the end of the batch.", lambda of: of.latency),
            ("proteus_queue_duration_seconds", "Time from admission to the start of the batch.", lambda of: of.queue),
            ("proteus_compute_duration_seconds", "Time for which batches ran.", lambda of: of.compute),
            ("proteus_batch_size", "Rows of batches.", lambda of: of.batch),
            (
                "proteus_effective_accuracy", "Mean accuracy of requests served in the last 10 s.",
                lambda of: of.effective_accuracy(now_s),
            ),
        )  # fmt: skip
        yield from _each(
            "family", {family: family for family in counts},
            ("proteus_best_accuracy", "Accuracy of the best variant.", lambda of: families.by_name[of].best_accuracy),
            ("proteus_slo_seconds", "Latency target.", lambda of: families.by_name[of].slo_s),
            ("proteus_attainment_target", "Share of requests that must be in time.", families.attainment_target),
            (
                "proteus_error_budget_used_ratio",
                "SLO violations since the start, over those that the target allows.",
                lambda of: counts[of].attainment(families.attainment_target(of)).error_budget_used,
            ),
            (
                "proteus_demand_qps", "Rows that arrived in the last second.",
                lambda of: controller.demand.rate_qps(of, 1.0, now_s),
            ),
            (
                "proteus_planned_demand_qps", "Demand that the plan in force was made for.",
                lambda of: controller.plan.demand_qps.get(of, 0.0),
            ),
            ("proteus_queue_depth", "Requests in the queues.", lambda of: controller.families[of].waiting),
        )  # fmt: skip

    def _devices(self) -> Iterator[Description]:
        fleet, controller = self._plane.fleet, self._plane.controller
        workers, breakers, change = fleet.workers, fleet.breakers, controller.change
        yield from _each(
            "device", {device: device for device in workers},
            (
                "proteus_device_busy_seconds_total", "Time in which at least one batch ran.",
                lambda device: workers[device].busy_s,
            ),
            ("proteus_device_pace", "Slowdown: measured over profiled batch time.", controller.slowdown_of),
            ("proteus_device_losses_total", "How often the device was lost.", lambda device: breakers[device].opened),
        )  # fmt: skip
        yield (
            "proteus_device_breaker", "1 for the state of the device's breaker.", "device state",
            {(device, state): int(of.state is state) for device, of in breakers.items() for state in BreakerState},
        )  # fmt: skip
        planned = {(each.device, *each.key): 1 for each in controller.placements}
        yield "proteus_plan_info", "What the plan in force hosts.", VARIANT, planned
        broken = fleet.broken_engines.breakers.items()
        yield (
            "proteus_engine_broken", "1 while plans leave out a variant that fails there.", VARIANT,
            dict.fromkeys(planned, 0) | {(device, *key): int(not each.is_closed) for (device, key), each in broken},
        )  # fmt: skip
        states = {}
        for device in workers:
            active, resident = keys(change.hosted_on(device)), change.resident_on(device)
            for key in fleet.loader.loadable(device):  # each variant that was profiled there and has a model
                states[device, *key] = 2 if key in active else int(key in resident)
        yield (
            "proteus_variant_state", "2: active, as the plan has it there. 1: warm, a standby. 0: cold.", VARIANT,
            states,
        )  # fmt: skip
        yield (
            "proteus_device_info", "The host of a device, empty for this machine, and its type.", "device host type",
            {(of.id, of.host, of.type): 1 for of in map(fleet.device, workers)},
        )  # fmt: skip
        yield from sharing_metrics({device: (each.servers, each.waited_s) for device, each in workers.items()})

    def _server(self) -> Iterator[Description]:
        sources, plane, connections = self._sources, self._plane, self._connections
        totals, solver, recalibration = sources.control_loop.totals, sources.solver, sources.recalibration
        numbers: tuple[tuple[str, str, Number], ...] = (
            ("proteus_plan_changes_total", "Changes of plan.", totals.made),
            ("proteus_plan_swaps_total", "Variants loaded by changes of plan.", totals.swaps),
            ("proteus_plan_activations_total", "Standbys activated by changes of plan.", totals.activated),
            ("proteus_plan_solve_seconds_total", "Time spent on solving.", totals.solve_s),
            (
                "proteus_plan_change_seconds_total", "Time from the request for a change until it was made.",
                totals.total_s,
            ),
            (
                "proteus_plan_timestamp_seconds", "When the plan in force was adopted.",
                sources.control_loop.latest.unix_s,
            ),
            ("proteus_solver_solves_total", "Solves that were asked for.", solver.solves if solver else 0),
            (
                "proteus_solver_restarts_total", "Processes of the solver that died or hung, and were replaced.",
                solver.restarts if solver else 0,
            ),
            (
                "proteus_profile_corrections_total", "Corrected profiles of a variant on a device.",
                recalibration.corrections if recalibration else None,
            ),
            (
                "proteus_plan_history_failures_total", "Writes to plans/history/ that failed.",
                sources.journal.failed if sources.journal else None,
            ),
            (
                "proteus_emulated", "1 where devices are emulated: no time here is a measurement.",
                int(plane.is_emulated),
            ),
            ("proteus_ready", "1 while requests are taken.", int(plane.lifecycle.state is ServerState.READY)),
            ("proteus_requests_in_flight", "Requests that wait or run.", plane.results.in_flight_count),
            ("proteus_connections", "Open connections.", len(connections)),
            (
                "proteus_refused_connections_total", "Connections refused, as there were too many.",
                connections.refused_count,
            ),
            ("proteus_open_body_bytes", "Memory of large request bodies.", connections.body_bytes),
            ("proteus_event_loop_lag_seconds", "Delay with which the event loop runs a timer.", self._lag.late_s),
        )  # fmt: skip
        for name, text, number in numbers:
            yield name, text, "", {(): number}
        yield "proteus_plan_failures_total", "Changes of plan that failed.", "cause", totals.failed
        yield (
            "proteus_refused_requests_total", "Requests answered with an error at admission.", "error",
            plane.counts.refusals,
        )  # fmt: skip
        yield (
            "proteus_background_errors_total", "Unexpected errors of background tasks, which were started again.",
            "task", {task: errors.total for task, errors in task_errors.items()},
        )  # fmt: skip
        versions = __version__, platform.python_version()
        yield "proteus_build_info", "The versions that run.", "version python", {versions: 1}
        if recalibration is not None:
            ratios = recalibration.drift.ratios()
            yield "proteus_profile_drift", "Recent batch times over profiled ones.", VARIANT, ratios

    def _triton(self, counts: Mapping[str, FamilyCounts]) -> Iterator[Description]:
        """A request that misses its deadline in the queue counts as rejected there; one that runs, as other."""
        labels, families = "model version", self._plane.controller.families
        yield from _each(
            labels, {(family, VERSION): of for family, of in counts.items()},
            ("nv_inference_request_success", "Requests answered in time.", lambda of: of.of_outcome(Outcome.SERVED)),
            ("nv_inference_count", "Rows of requests answered in time.", lambda of: of.rows),
            ("nv_inference_exec_count", "Batches that ran.", lambda of: sum(of.batch.counts)),
            (
                "nv_inference_request_duration_us", "Time from arrival to answer, of successes.",
                lambda of: round(of.request_s * 1e6),
            ),
            ("nv_inference_queue_duration_us", "Time in the queue, of successes.", lambda of: round(of.queue_s * 1e6)),
            (
                "nv_inference_compute_input_duration_us",
                "Time of decoding long requests before they are admitted, of successes.",
                lambda of: round(of.decoding_s * 1e6),
            ),
            (
                "nv_inference_compute_infer_duration_us", "Time in batches, of successes.",
                lambda of: round(of.compute_s * 1e6),
            ),
        )  # fmt: skip
        failures = {}
        for family, of in counts.items():
            refused = of.of_outcome(Outcome.REJECTED) + of.of_outcome(Outcome.DROPPED) - of.cancelled
            failures[family, VERSION, "REJECTED"] = refused
            failures[family, VERSION, "CANCELED"] = of.cancelled
            failures[family, VERSION, "BACKEND"] = of.of_outcome(Outcome.FAILED)
            failures[family, VERSION, "OTHER"] = of.of_outcome(Outcome.LATE)
        yield "nv_inference_request_failure", "Requests that ended otherwise.", f"{labels} reason", failures
        waiting = {(family, VERSION): families[family].waiting for family in counts}
        yield "nv_inference_pending_request_count", "Requests in the queues.", labels, waiting


def cut_metrics(cut: Mapping[str, Mapping[tuple[str, int], int]]) -> Iterator[Description]:
    """The answers that were cut short, by family, variant and exit."""
    yield (
        "proteus_cut_answers_total",
        "Answers of multi-exit models that were cut short for want of time, by the last exit of their rows.",
        "family variant exit",
        {(family, variant, str(place)): n for family, of in cut.items() for (variant, place), n in of.items()},
    )


def condition_metrics(live: Mapping[str, Condition]) -> Iterator[Description]:
    """The live conditions of families."""
    yield (
        "proteus_condition_info", "1 for each family with a live condition, which its multi-exit variants stop by.",
        "family stop_when", {(family, str(condition)): 1 for family, condition in live.items()},
    )  # fmt: skip


def cascade_metrics(controller: Controller) -> Iterator[Description]:
    """Deferred queries as planned and as observed, by pair of variants, over all thresholds in use."""
    rates, sums = (defaultdict[tuple[str, ...], float](float) for _ in range(2))
    for route in controller.cascades.in_use:
        cascade, (observed, _) = route.cascade, controller.cascades.observed(route)
        for of, frac in (("planned", cascade.point.deferred_frac), ("observed", observed)):
            if frac is not None:
                key = cascade.family, cascade.first, cascade.second, of
                rates[key] += cascade.rate_qps
                sums[key] += frac * cascade.rate_qps
    yield (
        "proteus_cascade_deferred_ratio", "Part of a cascade's queries that its first stage is not sure of.",
        "family first second of", {key: sums[key] / rate for key, rate in rates.items() if rate > 0},
    )  # fmt: skip


def feedback_metrics(
    plain: Mapping[VariantKey, LiveAccuracy], staged: Mapping[VariantKey, LiveAccuracy]
) -> Iterator[Description]:
    """The accuracy by clients' labels, for ``plain`` answers and for answers ``staged`` by cascades and cuts."""
    answers = {"plain": plain, "staged": staged}
    yield from _each(
        "family variant answers", {(*key, kind): live for kind, of in answers.items() for key, live in of.items()},
        ("proteus_feedback_rows_total", "Answered rows that clients have told a label of.", lambda live: live.rows),
        ("proteus_feedback_right_total", "Of these, the right ones; scores count in part.", lambda live: live.right),
        (
            "proteus_feedback_promised_total", "Of these, the right ones that were promised.",
            lambda live: live.promised,
        ),
        (
            "proteus_accuracy_is_lower", "1 while answers are less accurate than promised, by more than chance.",
            lambda live: int(live.is_lower),
        ),
    )  # fmt: skip


def rollout_metrics(
    families: Iterable[str], rollouts: Mapping[str, RolloutStatus], ended: Mapping[str, int]
) -> Iterator[Description]:
    """The last version roll-out of each of the ``families``, and all that have ``ended`` since the start."""
    shares = {name: each.share for name, each in rollouts.items() if each.ending is None}
    yield (
        "proteus_rollout_share_ratio",
        "The share of the queries of a family that a version answers which is being rolled out; 0: there is none.",
        "family", {name: shares.get(name, 0.0) for name in families},
    )  # fmt: skip
    stages = [stage for stage in RolloutStage if stage is not RolloutStage.ENDED]
    yield (
        "proteus_rollout_stage",
        "1 for the stage of the version roll-out of a family, 0 for the others; 0 for all: there is none.",
        "family stage",
        {(name, stage): int(name in shares and rollouts[name].stage is stage) for name in families for stage in stages},
    )
    counts = {ending: ended.get(ending, 0) for ending in Ending}
    yield "proteus_rollouts_total", "Version roll-outs that have ended, by how they did.", "ending", counts


def shift_metrics(
    inputs: Mapping[str, ShiftWatch | None], confidence: Mapping[VariantKey, ShiftWatch | None]
) -> Iterator[Description]:
    """Whether the ``inputs`` of families and the ``confidence`` of variants are distributed as on the eval split."""
    watches = {(family, "inputs", ""): watch for family, watch in inputs.items()}
    watches |= {(key.family, "confidence", key.variant): watch for key, watch in confidence.items()}
    yield from _each(
        "family of variant", {key: watch for key, watch in watches.items() if watch is not None},
        ("proteus_shift_rows_total", "Rows that were compared with the eval split.", lambda watch: watch.rows),
        (
            "proteus_shift_distance_ratio",
            "The distance of the last rows from the eval split, over that which raises the alarm.",
            lambda watch: watch.ratio,
        ),
        (
            "proteus_shift", "1 while rows are no longer distributed as on the eval split.",
            lambda watch: int(watch.is_shifted),
        ),
    )  # fmt: skip


def sample_metrics(counts: SampleCounts) -> Iterator[Description]:
    """The requests that are captured."""
    yield "proteus_samples_captured_total", "Requests that were captured.", "family", counts.captured
    yield (
        "proteus_samples_dropped_total", "Requests that were chosen, and not captured or lost again.",
        "family reason", counts.dropped,
    )  # fmt: skip
    yield "proteus_samples_bytes", "The space that samples take on the disk.", "", {(): counts.size_bytes}


def sharing_metrics(sharing: Mapping[str, tuple[int, float]]) -> Iterator[Description]:
    """The servers that share each device of a cluster's hosts, and the seconds that batches waited for their turns."""
    yield from _each(
        "device", {device: each for device, each in sharing.items() if host_of(device)},
        ("proteus_device_servers", "Servers that share the device, this one included.", lambda each: each[0]),
        (
            "proteus_device_turn_wait_seconds_total", "What batches waited until those of other servers had ended.",
            lambda each: each[1],
        ),
    )  # fmt: skip


def host_metrics(hosts: Mapping[str, HostStatus]) -> Iterator[Description]:
    """The hosts of a cluster."""
    yield from _each(
        "host", hosts,
        ("proteus_host_up", "1 while the host is connected.", lambda host: int(host.state is HostState.CONNECTED)),
        (
            "proteus_host_listed", "1 while the list of hosts has it; else it was taken out.",
            lambda host: int(host.listed),
        ),
        ("proteus_host_losses_total", "How often the host was lost.", lambda host: host.losses),
        (
            "proteus_host_round_trip_seconds", "To the host's agent and back, at best lately.",
            lambda host: host.round_trip_s,
        ),
        (
            "proteus_host_sent_bytes_total", "Bytes sent to the host's agent, before TLS.",
            lambda host: host.bytes_sent,
        ),
        (
            "proteus_host_received_bytes_total", "Bytes received from it, after TLS.",
            lambda host: host.bytes_received,
        ),
    )  # fmt: skip


def slot_metrics(tuners: Mapping[str, SlotTuner], now_s: float) -> Iterator[Description]:
    """Devices of several slots, where slots are tuned."""
    yield from _each(
        "device", tuners,
        ("proteus_slots", "Slots that the device was opened with.", lambda tuner: tuner.max_slots),
        ("proteus_slots_used", "Batches that it may run at once now.", lambda tuner: tuner.slots),
        ("proteus_slots_busy", "Batches that it runs now.", lambda tuner: tuner.bins.running),
        (
            "proteus_slots_knee", "The least number of batches at once with the most throughput.",
            lambda tuner: tuner.knee,
        ),
        ("proteus_slot_changes_total", "Changes of the slots that a device uses.", lambda tuner: tuner.changed),
        ("proteus_slot_trials_total", "Trials of one slot more, or fewer.", lambda tuner: tuner.trials),
    )  # fmt: skip
    seconds, throughput = dict[tuple[str, str], float](), dict[tuple[str, str], float]()
    for device, tuner in tuners.items():
        seconds |= {(device, str(n)): of for n, of in enumerate(tuner.bins.seconds(now_s))}
        if (known := tuner.estimate) is not None:
            throughput |= {(device, str(n)): known.of(n) / tuner.max_slots for n in known.levels}
    yield "proteus_slot_seconds_total", "Time with so many batches running.", "device running", seconds
    yield (
        "proteus_slot_throughput_ratio",
        "Throughput with so many batches running, over what the profile has with all slots busy.",
        "device running", throughput,
    )  # fmt: skip


def written(
    descriptions: Iterable[Description], others: Iterable[Metric] = (), *, wants_openmetrics: bool = False
) -> bytes:
    """The text of the metrics, and of ``others``, in Prometheus's format or in OpenMetrics."""
    metrics = [*map(_metric, descriptions), *others]
    write = openmetrics.generate_latest if wants_openmetrics else generate_latest
    return write(_Collected([metric for metric in metrics if metric.samples]))


def _each(labels: str, subjects: Mapping[Any, Subject], *rows: Row[Subject]) -> Iterator[Description]:
    for name, text, number in rows:
        yield name, text, labels, {values: number(subject) for values, subject in subjects.items()}


def _metric(description: Description) -> Metric:
    """Triton's counters have no type, because their names do not end in ``_total``."""
    name, text, labels, numbers = description
    names = labels.split()
    histogram = HistogramMetricFamily(name, text, labels=names)
    metric: CounterMetricFamily | GaugeMetricFamily | UnknownMetricFamily = GaugeMetricFamily(name, text, labels=names)
    if name.endswith("_total"):
        metric = CounterMetricFamily(name, text, labels=names)
    elif name.startswith("nv_") and not name.endswith("_pending_request_count"):
        metric = UnknownMetricFamily(name, text, labels=names)
    for key, number in numbers.items():
        values = (key,) if isinstance(key, str) else key
        if isinstance(number, Histogram):
            bounds = [*map(str, number.bounds), "+Inf"]
            histogram.add_metric(values, list(zip(bounds, accumulate(number.counts), strict=True)), number.total)
        elif number is not None:
            metric.add_metric(values, number)
    return histogram if histogram.samples else metric


@dataclass(frozen=True)
class _Collected(Collector):
    metrics: Iterable[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.metrics
