"""Metrics of the labels that clients tell of their requests."""

from collections.abc import Mapping

from proteus_cli.control.replanning.live_accuracy import LiveAccuracy
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, MetricDescription, MetricKind

_LABELS = ("family", "variant", "answers")
ROWS = MetricDescription(
    "proteus_feedback_rows_total", MetricKind.COUNTER, "Answered rows that clients have told a label of.", _LABELS
)
RIGHT = MetricDescription(
    "proteus_feedback_right_total", MetricKind.COUNTER, "Of these, the right ones; scores count in part.", _LABELS
)
PROMISED = MetricDescription(
    "proteus_feedback_promised_total", MetricKind.COUNTER, "Of these, the right ones that were promised.", _LABELS
)
IS_LOWER = MetricDescription(
    "proteus_accuracy_is_lower",
    MetricKind.GAUGE,
    "1 while answers are less accurate than promised, by more than chance.",
    _LABELS,
)


def add_feedback(
    exposition: Exposition, plain: Mapping[VariantKey, LiveAccuracy], staged: Mapping[VariantKey, LiveAccuracy]
) -> None:
    """Of ``plain`` answers, and of those that were ``staged`` by cascades and cuts. Without labels, there are none."""
    found = _by_labels("plain", plain) | _by_labels("staged", staged)
    if found:
        exposition.add(ROWS, [(labels, live.rows) for labels, live in found.items()])
        exposition.add(RIGHT, [(labels, live.right) for labels, live in found.items()])
        exposition.add(PROMISED, [(labels, live.promised) for labels, live in found.items()])
        exposition.add(IS_LOWER, [(labels, int(live.is_lower)) for labels, live in found.items()])


def _by_labels(answers: str, live: Mapping[VariantKey, LiveAccuracy]) -> dict[tuple[str, str, str], LiveAccuracy]:
    return {(*key, answers): found for key, found in sorted(live.items())}
