"""Metrics of the labels that clients tell of their requests."""

from collections.abc import Mapping

from proteus_cli.control.alarms import LiveAccuracy
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.serving.telemetry.metrics.exposition import Exposition, counter, gauge

_LABELS = ("family", "variant", "answers")
ROWS = counter("proteus_feedback_rows_total", "Answered rows that clients have told a label of.", *_LABELS)
RIGHT = counter("proteus_feedback_right_total", "Of these, the right ones; scores count in part.", *_LABELS)
PROMISED = counter("proteus_feedback_promised_total", "Of these, the right ones that were promised.", *_LABELS)
IS_LOWER = gauge(
    "proteus_accuracy_is_lower", "1 while answers are less accurate than promised, by more than chance.", *_LABELS
)


def add_feedback(
    exposition: Exposition, plain: Mapping[VariantKey, LiveAccuracy], staged: Mapping[VariantKey, LiveAccuracy]
) -> None:
    """Add what feedback tells of ``plain`` answers, and of those that were ``staged`` by cascades and cuts."""
    found = _by_labels("plain", plain) | _by_labels("staged", staged)
    exposition.add_each(
        found,
        (ROWS, lambda live: live.rows),
        (RIGHT, lambda live: live.right),
        (PROMISED, lambda live: live.promised),
        (IS_LOWER, lambda live: int(live.is_lower)),
    )


def _by_labels(answers: str, live: Mapping[VariantKey, LiveAccuracy]) -> dict[tuple[str, str, str], LiveAccuracy]:
    return {(*key, answers): found for key, found in sorted(live.items())}
