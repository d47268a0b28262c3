"""The table of `proteus samples list`."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.table import Table

from proteus_cli.reporting.tables import name, number, table, text
from proteus_cli.store.samples.summary import SampleSummary
from proteus_cli.units import format_size


def sample_table(found: Sequence[SampleSummary]) -> Table:
    """A row for each family."""
    columns = (text("family"), *map(number, ("requests", "rows", "labelled", "size")), *map(name, ("from (UTC)", "to")))
    rows = table(*columns)
    for each in found:
        rows.add_row(
            each.family, f"{each.requests:,}", f"{each.rows:,}", f"{each.labelled:,}", format_size(each.size_bytes),
            _time(each.first_unix_s), _time(each.last_unix_s),
        )  # fmt: skip
    return rows


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M")
