"""How plans look in a terminal that is narrow for their names."""

from io import StringIO

import msgspec
import pytest
from builders import make_cascade, make_placement, make_plan
from rich.console import Console

from proteus_cli.cli.views.plan_tables import plan_table

FIRST, SECOND = "digits-exits-accurate", "digits-exits-balanced"


@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_names_are_wrapped_before_a_digit_is_cut(width: int) -> None:
    placements = (
        make_placement("cpu0", "digits-exits", FIRST, rate_qps=1000.0, capacity_qps=12_345.0),
        msgspec.structs.replace(make_placement("cpu1", "digits-exits", SECOND), rate_qps=0.0, deferred_qps=215.0),
    )
    plan = make_plan(*placements, cascades=(make_cascade("digits-exits", FIRST, SECOND, rate_qps=430.0),))
    shown = StringIO()
    Console(file=shown, width=width).print(plan_table(plan))
    table = shown.getvalue().split("qps: rate of each device")[0]
    header, _, *rows = table.splitlines()
    assert header.split()[-1] == "deferred"
    assert "1,000" in table
    assert [row.split()[-1] for row in rows if "215" in row] == ["215"]
    assert all(len(line) <= width for line in table.splitlines())
