"""`stop_when` of a multi-exit variant: what it may compare, and that it can hold."""

from proteus_cli.domain.base import require
from proteus_cli.domain.conditions.condition import Condition, metrics
from proteus_cli.domain.conditions.metrics import Metric
from proteus_cli.domain.conditions.parser import parse
from proteus_cli.domain.conditions.reach import reach
from proteus_cli.domain.conditions.reading import ConditionError

STOP_METRICS = frozenset({Metric.CONFIDENCE, Metric.EXIT})
"""What `stop_when` of a variant may compare: with a clock in it, it would have no accuracy or latency of its own."""


def require_stop_condition(text: str, exits: int, variant: str) -> None:
    """Raise `ValueError` unless a variant with so many exits can have this `stop_when`."""
    where = f"stop_when of `{variant}`"
    try:
        condition: Condition = parse(text, STOP_METRICS)
    except ConditionError as error:
        raise ValueError(f"{where}: {error.problem}, at column {error.column + 1} of `{text}`; {error.hint}") from None
    others = sorted(metrics(condition) - STOP_METRICS)
    known = " and ".join(f"`{metric}`" for metric in sorted(STOP_METRICS))
    require(
        not others,
        f"{where} compares `{', '.join(others)}`; that of a variant knows {known}, as it would have no accuracy of its "
        "own with more: change the condition of its family live (PATCH /v2/proteus/families/NAME)",
    )
    require(
        reach(condition, exits).can_hold, f"{where} never holds: there are {exits} exits, and the last always answers"
    )
