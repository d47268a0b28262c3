"""Metrics of shifts: whether requests and answers are still distributed as on the eval split."""

from collections.abc import Mapping

from proteus_cli.control.shift import ShiftWatch
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, MetricDescription, MetricKind

_LABELS = ("family", "of", "variant")
ROWS = MetricDescription(
    "proteus_shift_rows_total", MetricKind.COUNTER, "Rows that were compared with the eval split.", _LABELS
)
RATIO = MetricDescription(
    "proteus_shift_distance_ratio",
    MetricKind.GAUGE,
    "The distance of the last rows from the eval split, over that which raises the alarm.",
    _LABELS,
)
IS_SHIFTED = MetricDescription(
    "proteus_shift", MetricKind.GAUGE, "1 while rows are no longer distributed as on the eval split.", _LABELS
)


def add_shifts(
    exposition: Exposition,
    inputs: Mapping[str, ShiftWatch | None],
    confidence: Mapping[VariantKey, ShiftWatch | None],
) -> None:
    """Of the ``inputs`` of families, and the ``confidence`` of variants, where these are watched."""
    found = {(family, "inputs", ""): watch for family, watch in sorted(inputs.items()) if watch is not None}
    found |= {
        (key.family, "confidence", key.variant): watch for key, watch in sorted(confidence.items()) if watch is not None
    }
    if found:
        exposition.add(ROWS, [(labels, watch.rows) for labels, watch in found.items()])
        exposition.add(RATIO, [(labels, watch.ratio) for labels, watch in found.items()])
        exposition.add(IS_SHIFTED, [(labels, int(watch.is_shifted)) for labels, watch in found.items()])
