"""Gates: bounds on measured values that fail a run (``replay --fail-on 'slo_violation_ratio>0.01'``)."""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from proteus_cli.domain.report import LatencySummary, Report, Summary
from proteus_cli.errors import GateFailed, UsageError

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_GATE = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(>=|<=|>|<)\s*(\S+)\s*", re.ASCII)

FIELDS = (
    *(field.name for field in msgspec.structs.fields(Summary) if field.name != "latency_s"),
    *(f"latency_s.{field.name}" for field in msgspec.structs.fields(LatencySummary)),
)


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition that fails a run: ``field``, one of `FIELDS`, compared with ``bound``."""

    field: str
    op: str
    bound: float

    def __str__(self) -> str:
        return f"{self.field}{self.op}{self.bound:g}"

    def check(self, report: Report) -> None:
        """Raise `GateFailed` where the condition holds, or where the run has no value of that field."""
        measured = _measured(report, self.field)
        if measured is None:
            raise GateFailed(
                f"Gate `{self}`: `{report.policy}` has no `{self.field}` on `{report.trace}`.",
                hint="a gate needs a measured value; see how the requests ended in the report",
            )
        if _OPERATORS[self.op](measured, self.bound):
            raise GateFailed(
                f"Gate `{self}`: `{report.policy}` measured {measured:.6g} on `{report.trace}`.",
                hint=f"the run passes unless {self.field} is {self.op} {self.bound:g}",
            )


def parse_gate(text: str) -> Gate:
    """``"slo_violation_ratio>0.01"`` → the gate. Raises `UsageError`."""
    match = _GATE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"`{text}` is not a gate.",
            hint=f"write FIELD, one of {', '.join(_OPERATORS)}, NUMBER, like `slo_violation_ratio>0.01`; {_fields()}",
        )
    field, op, number = match.groups()
    if field not in FIELDS:
        raise UsageError(f"The gate `{text}` has an unknown field `{field}`.", hint=_fields())
    return Gate(field, op, _number(number, text))


def _fields() -> str:
    return f"fields: {', '.join(FIELDS)}"


def _number(number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        hint = "write the bound in base units: a fraction, seconds, queries per second, percentage points"
        raise UsageError(f"The bound `{number}` of the gate `{text}` is not a finite number.", hint=hint)
    return value


def _measured(report: Report, field: str) -> float | None:
    value: object = report
    for name in field.split("."):
        value = getattr(value, name, None)
    return value if isinstance(value, int | float) else None
