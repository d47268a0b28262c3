"""Metrics of shifts: whether requests and answers are still distributed as on the eval split."""

from collections.abc import Mapping

from proteus_cli.control.alarms import ShiftWatch
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, counter, gauge

_LABELS = ("family", "of", "variant")
ROWS = counter("proteus_shift_rows_total", "Rows that were compared with the eval split.", *_LABELS)
RATIO = gauge(
    "proteus_shift_distance_ratio",
    "The distance of the last rows from the eval split, over that which raises the alarm.",
    *_LABELS,
)
IS_SHIFTED = gauge("proteus_shift", "1 while rows are no longer distributed as on the eval split.", *_LABELS)


def add_shifts(
    exposition: Exposition,
    inputs: Mapping[str, ShiftWatch | None],
    confidence: Mapping[VariantKey, ShiftWatch | None],
) -> None:
    """Add the ``inputs`` of families, and the ``confidence`` of variants, where these are watched."""
    found = {(family, "inputs", ""): watch for family, watch in sorted(inputs.items()) if watch is not None}
    found |= {
        (key.family, "confidence", key.variant): watch for key, watch in sorted(confidence.items()) if watch is not None
    }
    exposition.add_each(
        found,
        (ROWS, lambda watch: watch.rows),
        (RATIO, lambda watch: watch.ratio),
        (IS_SHIFTED, lambda watch: int(watch.is_shifted)),
    )
