"""What was found, for the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from benchmarks.arrivals.results import Benchmark, Found, Runs
from benchmarks.paper.results import number, percent
from benchmarks.tables import Table, aim_line, rich_table

COLUMNS = ("arrivals", "policy", "violations", "accuracy", "drop", "loads", "re-plans", "on time", "CPU s")
NOTE = (
    "Violations: late, dropped or refused, of all queries. Accuracy: relative to each family's most accurate variant. "
    "Drop: the largest in points, over windows of 10 s. On time: accuracy where a query that missed its SLO counts as "
    "0. Loads, re-plans and CPU are means over the traces of a row."
)
NEEDED_NOTE = (
    "Violations can be traded for accuracy, so both limits of a row can be kept only where accuracy on time is that of "
    "a policy that just keeps them."
)


def shown(done: Benchmark) -> RenderableType:
    """The table, remarks, and a line per aim."""
    rows = tuple(cells for found in done.rows for cells in _rows(found))
    parts: list[RenderableType] = [rich_table(Table(f"Arrivals, {done.seeds} seeds", COLUMNS, rows, NOTE)), Text()]
    if needed := _needed(done.rows):
        parts += [rich_table(needed), Text()]
    parts += [Text(remark) for found in done.rows for remark in found.remarks]
    parts.append(Text())
    aims = [aim for found in done.rows for aim in found.aims]
    parts += [Text(aim_line(aim), style="green" if aim.is_reached else "red") for aim in aims]
    parts += [Text(text, style="yellow") for text in done.skipped]
    parts.append(Text(f"\nOn time, the mean over {len(done.rows)} rows: {percent(done.accuracy_on_time, 3)}"))
    parts.append(Text(f"{done.seconds:.0f} s; {done.machine}"))
    return Group(*parts)


def _rows(found: Found) -> tuple[tuple[str, ...], ...]:
    return tuple((found.title if not place else "", *_cells(runs)) for place, runs in enumerate(found.policies))


def _needed(rows: Sequence[Found]) -> Table | None:
    """What both limits of each row need, beside what is reached."""
    limited = [found for found in rows if found.needed is not None]
    if not limited:
        return None
    policies = tuple(runs.policy for runs in limited[0].policies)
    cells = tuple(
        (found.title, percent(found.needed), *(percent(runs.accuracy_on_time) for runs in found.policies))
        for found in limited
    )
    return Table("On time, beside what the limits need", ("arrivals", "needed", *policies), cells, NEEDED_NOTE)


def _cells(runs: Runs) -> tuple[str, ...]:
    return (
        runs.policy,
        percent(runs.violations),
        percent(runs.relative_accuracy),
        number(runs.max_drop),
        number(runs.loads, 0),
        number(runs.replans, 0),
        percent(runs.accuracy_on_time),
        number(runs.cpu_s, 1),
    )
