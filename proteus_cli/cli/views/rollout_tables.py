"""Version roll-outs as a table, and their guards below it."""

import math
from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from proteus_cli.domain.rollouts import Ending, Interval, RolloutStage, RolloutStatus, TermStatus, Verdict
from proteus_cli.reporting.tables import name, number, table, text
from proteus_cli.units import counted, format_percent

_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.HOLD: ""}
_QUANTILE = "p"
"""With which terms about latency begin: `p99 <= slo`. What is told of these is the part that is late."""
_ENDINGS = {Ending.DONE: "green", Ending.ABORTED: "yellow", Ending.ROLLED_BACK: "red", Ending.FAILED: "red"}


def rollout_table(rollouts: Sequence[RolloutStatus]) -> RenderableType:
    """A row for each."""
    rows = table(
        name("family"), name("new"), name("old"), text("step"), number("share"), number("queries"), text("guard")
    )
    for each in rollouts:
        wanted = each.specification
        rows.add_row(
            wanted.family, wanted.new, wanted.old, _step(each), format_percent(each.share),
            f"{_queries(each):,}", each.verdict.value,
            style=_ENDINGS[each.ending] if each.ending is not None else _STYLES[each.verdict],
        )  # fmt: skip
    return rows


def rollout_lines(status: RolloutStatus) -> Iterator[str]:
    """Lines on each term of the guard, the labels it still needs, and the end of the roll-out."""
    needed = _labels_needed(status.specification.confidence)
    if status.stage is RolloutStage.MEASURING:
        labels = f", and needs about {needed:,} labels" if any(map(_is_of_labels, status.terms)) else ""
        yield f"{status.specification.family}: measuring the new version; its guard begins after that{labels}"
    else:
        for term in status.terms:
            yield f"{status.specification.family}: {term.term}: {term.verdict}{_seen(term, needed)}"
    if status.waits_for_promote:
        yield f"{status.specification.family}: waits for `proteus rollout promote {status.specification.family}`"
    if status.note:
        yield f"{status.specification.family}: {status.note}"
    if status.reason:
        yield f"{status.specification.family}: {status.ending}: {status.reason}"


def progress_line(status: RolloutStatus) -> str:
    """Where it is, without the numbers that change with each query."""
    wanted, why = status.specification, "; ".join(filter(None, [status.reason, status.note]))
    return f"{wanted.family}: {wanted.new}: {_step(status)}, guard: {status.verdict}{why and f' ({why})'}"


def _queries(status: RolloutStatus) -> int:
    """Those of the step that the new version has answered: alone, or in its shadow beside the old one."""
    return status.counts.shadowed if status.stage is RolloutStage.SHADOW else status.counts.canary


def _step(status: RolloutStatus) -> str:
    if status.ending is not None:
        return status.ending.value
    of = len(status.specification.canary_fracs)
    return f"canary {status.step} of {of}" if status.stage is RolloutStage.CANARY else status.stage.value


def _labels_needed(confidence: float) -> int:
    """About how many labelled queries pass an equal version: 2 v ln(1 / (1 - confidence)) / 0.02², to the hundred.

    The variance v belongs to an accuracy of 0.92; 0.02 is the distance to a notably worse version
    (`control/rollouts/__init__.py`).
    """
    return round(-2 * 0.92 * 0.08 * math.log(1 - confidence) / 0.02**2 / 100) * 100


def _is_of_labels(term: TermStatus) -> bool:
    return term.term.startswith("accuracy")


def _seen(term: TermStatus, labels_needed: int) -> str:
    if term.new is None and _is_of_labels(term):
        return f", 0 of about {labels_needed:,} labels of its queries have come: clients send them as feedback"
    if term.new is None:
        return ", nothing is known of it yet"
    what = " late" if term.term.startswith(_QUANTILE) else ""
    new = f"{format_percent(term.new)}{what}{_within(term.new_interval)}"
    old = "" if term.old is None else f", old {format_percent(term.old)}{_within(term.old_interval)}"
    few = _is_of_labels(term) and term.verdict is Verdict.HOLD and term.observations < labels_needed
    queries = f"{term.observations:,} of about {labels_needed:,} labels" if few else ""
    return f", {new}{old} in {queries or counted(term.observations, 'query', 'queries')}"


def _within(interval: Interval | None) -> str:
    """The confidence interval."""
    return "" if interval is None else f" [{' – '.join(map(format_percent, interval))}]"
