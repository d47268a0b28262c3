"""The table of constants in docs/design.md has each constant of the default rule, with its value."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proteus_cli.control.replanning import demand, loss_curves, replan_rules, replanning
from proteus_cli.control.replanning.replan_rules import ForecastRule
from proteus_cli.control.topology import plan_change
from proteus_cli.planning.placements import spares
from proteus_cli.planning.solver import target_demand
from proteus_cli.planning.solver.lexicographic import FORECAST_GAP

PAGE = Path(__file__).parents[2] / "docs" / "design.md"
CONSTANT = re.compile(r"_?[A-Z][A-Z_]+")
ELSEWHERE = {
    "NOTABLE_SLOWDOWN",  # of a text
    "NEGLIGIBLE",  # a rounding
    "RETRY_S",  # of standbys
    "_WEIGHTS",  # stand in the row of `_DEVIATIONS`
}


def in_the_code() -> dict[str, Any]:
    """Values by name, of the rule and of the modules that forecast and weigh."""
    modules = (demand, loss_curves, replan_rules, replanning, spares, target_demand, plan_change)
    named = {name: value for module in modules for name, value in vars(module).items() if CONSTANT.fullmatch(name)}
    constants = {name: value for name, value in named.items() if isinstance(value, int | float | tuple | np.ndarray)}
    of_the_rule = {each.name: each.default for each in fields(ForecastRule)} | {"FORECAST_GAP": FORECAST_GAP}
    return {name: value for name, value in (of_the_rule | constants).items() if name not in ELSEWHERE}


def in_the_table() -> dict[str, str]:
    """Values by name, as they are written."""
    section = PAGE.read_text(encoding="utf-8").partition("### Constants of re-planning")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    return {name: value for _, names, value, _ in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_table_has_each_constant_and_no_other() -> None:
    assert sorted(in_the_table()) == sorted(in_the_code())


def test_the_table_has_the_values_of_the_code() -> None:
    """All numbers of a cell."""
    table, code = in_the_table(), in_the_code()
    assert [float(text) for text in re.findall(r"[\d.]+", table["FIRST_PAUSE_S"])] == [
        code.pop("FIRST_PAUSE_S"),
        code.pop("LONGEST_PAUSE_S"),
    ]
    del code["_DEVIATIONS"]  # has roots
    for name, value in code.items():
        scale = 0.01 if "%" in table[name] else 1.0
        numbers = [scale * float(text.replace("−", "-")) for text in re.findall(r"−?[\d.]+", table[name])]
        assert numbers == pytest.approx(np.atleast_1d(value).tolist()), name
