"""How plans look in a terminal that is narrow for their names."""

from io import StringIO

import msgspec
import pytest
from builders import make_cascade, make_placement, make_plan
from rich.console import Console

from proteus_cli.cli.plan_tables import explanation_tables, plan_table
from proteus_cli.planning.analysis.explain import Explanation, FamilyExplanation

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


@pytest.mark.parametrize(
    ("unserved_qps", "heads"), [(0.0, ["demand", "capacity"]), (7.0, ["demand", "unserved", "capacity"])]
)
def test_what_is_unserved_is_a_column_where_anything_is(unserved_qps: float, heads: list[str]) -> None:
    """Without it, the longest name of the sample models has room in 80 columns."""
    family = FamilyExplanation("digits-exits", 100.0, 100 - unserved_qps, unserved_qps, 93.0, {FIRST: 1}, 0.9, 1.0, 0.9)
    shown = StringIO()
    Console(file=shown, width=80).print(explanation_tables(Explanation((family,), (), (), 1.0, False), spent_on=None))
    header, _, first, *_ = shown.getvalue().splitlines()
    assert header.split() == ["family", *heads, "accuracy", "of", "best", "hosts"]
    assert f"{', '.join(heads)}: queries per second" in shown.getvalue()
    assert (f"1 × {FIRST}" in first) is (unserved_qps == 0)
