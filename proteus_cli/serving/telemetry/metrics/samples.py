"""Metrics of the requests that are captured."""

from proteus_cli.serving.requests.samples.capture import SampleCounts
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, counter, gauge

CAPTURED = counter("proteus_samples_captured_total", "Requests that were captured.", "family")
DROPPED = counter(
    "proteus_samples_dropped_total", "Requests that were chosen, and not captured or lost again.", "family", "reason"
)
BYTES = gauge("proteus_samples_bytes", "The space that samples take on the disk.")


def add_samples(exposition: Exposition, counts: SampleCounts) -> None:
    """Add the metrics of captured samples."""
    exposition.add(CAPTURED, [((family,), number) for family, number in sorted(counts.captured.items())])
    exposition.add(DROPPED, sorted(counts.dropped.items()))
    exposition.add(BYTES, [((), counts.size_bytes)])
