"""``/metrics`` in Prometheus's text format: Triton's names for dashboards that exist, ours beside them."""

from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proteus_cli import __version__
from proteus_cli.domain.request import Outcome
from proteus_cli.serving.counts import FamilyCounts, Histogram
from proteus_cli.serving.dataplane import DataPlane

DEMAND_WINDOW_S = 1.0
_FAILURES = {Outcome.REJECTED: "REJECTED", Outcome.DROPPED: "TIMEOUT", Outcome.LATE: "LATE", Outcome.FAILED: "BACKEND"}
_TRITON_SUMS: tuple[tuple[str, str, Callable[[FamilyCounts], float]], ...] = (
    ("nv_inference_count", "Rows answered.", lambda counts: counts.rows),
    ("nv_inference_exec_count", "Batches run.", lambda counts: round(counts.batches)),
    ("nv_inference_request_duration_us", "Time from arrival to answer.", lambda counts: counts.request_s * 1e6),
    ("nv_inference_queue_duration_us", "Time waited.", lambda counts: counts.queue_s * 1e6),
    ("nv_inference_compute_infer_duration_us", "Time in batches.", lambda counts: counts.compute_s * 1e6),
)


def exposition(plane: DataPlane) -> bytes:
    """All metrics as they are now."""
    collected = CollectorRegistry(auto_describe=False)
    collected.register(_Snapshot(plane))
    return generate_latest(collected)


class _Snapshot(Collector):
    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def collect(self) -> Iterator[Metric]:
        yield from self._ours()
        yield from self._tritons()

    def _ours(self) -> Iterator[Metric]:
        plane, now_s = self._plane, self._plane.clock()
        requests = CounterMetricFamily(
            "proteus_requests", "Requests by how they ended.", labels=("family", "variant", "device", "outcome")
        )
        latency = HistogramMetricFamily(
            "proteus_request_latency_seconds", "Latency of answered requests.", labels=("family",)
        )
        batch = HistogramMetricFamily(
            "proteus_batch_size", "Rows of the batch that answered a request.", labels=("family",)
        )
        accuracy = GaugeMetricFamily(
            "proteus_effective_accuracy", "Mean accuracy of the answers of the last 10 s.", labels=("family",)
        )
        demand = GaugeMetricFamily("proteus_demand_qps", "Arrivals of the last second.", labels=("family",))
        for family, counts in plane.counts.items():
            for (variant, device, outcome), number in counts.outcomes.items():
                requests.add_metric((family, variant, device, outcome.value), number)
            latency.add_metric((family,), _buckets(counts.latency), counts.latency.total)
            batch.add_metric((family,), _buckets(counts.batch), counts.batch.total)
            effective = counts.effective_accuracy(now_s)
            if effective is not None:
                accuracy.add_metric((family,), effective)
            demand.add_metric((family,), plane.controller.demand.rate_qps(family, DEMAND_WINDOW_S, now_s))
        yield from (requests, latency, batch, accuracy, demand, self._plan_info())

    def _plan_info(self) -> Metric:
        info = GaugeMetricFamily(
            "proteus_plan_info", "What the plan in force hosts.", labels=("device", "family", "variant", "program")
        )
        for placement in self._plane.controller.placements:
            info.add_metric((placement.device, placement.family, placement.variant, __version__), 1)
        return info

    def _tritons(self) -> Iterator[Metric]:
        """Untyped, as this library would end the names of counters in ``_total``, which dashboards don't expect."""
        success = Metric("nv_inference_request_success", "Requests answered by their deadline.", "unknown")
        failure = Metric("nv_inference_request_failure", "Requests that ended otherwise.", "unknown")
        for family, counts in self._plane.counts.items():
            labels = {"model": family, "version": "1"}
            success.add_sample(success.name, labels, counts.of_outcome(Outcome.SERVED))
            for outcome, reason in _FAILURES.items():
                failure.add_sample(failure.name, {**labels, "reason": reason}, counts.of_outcome(outcome))
        yield from (success, failure)
        for name, text, value in _TRITON_SUMS:
            metric = Metric(name, text, "unknown")
            for family, counts in self._plane.counts.items():
                metric.add_sample(name, {"model": family, "version": "1"}, value(counts))
            yield metric
        pending = Metric("nv_inference_pending_request_count", "Requests that wait.", "gauge")
        for family in self._plane.counts:
            waiting = self._plane.controller.waiting_of(family)
            pending.add_sample(pending.name, {"model": family, "version": "1"}, waiting)
        yield pending


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = (*(str(float(bound)) for bound in histogram.bounds), "+Inf")
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
