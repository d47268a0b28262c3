"""A solve that is told to end gives the best plan that it has found; HiGHS itself is interrupted."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from builders import make_catalog, make_family, make_measured, make_profile

from proteus_cli.control.policies import policy_named
from proteus_cli.errors import NoFeasiblePlan
from proteus_cli.interruption import INTERRUPTION
from proteus_cli.planning.planner import Planner
from proteus_cli.planning.solver import solve

FAMILIES = {f"f{k}": {f"v{j}": 0.6 + 0.05 * j for j in range(5)} for k in range(4)}
DEMAND = {name: 50.0 + 30.0 * place for place, name in enumerate(FAMILIES)}


@pytest.fixture(autouse=True)
def _nothing_is_asked() -> Iterator[None]:
    INTERRUPTION.forget()
    yield
    INTERRUPTION.forget()


def planner() -> Planner:
    """Of three types of devices, four each, on which HiGHS has hundreds of checks to do."""
    profiles = dict[str, Any]()
    for kind, slower in (("a", 1.0), ("b", 1.7), ("c", 2.9)):
        measured = [
            make_measured(
                name, variant, accuracy, {b: slower * (4 + 6 * j + 2 * k) * (0.6 + 0.4 * b) / 1e3 for b in (1, 4)}
            )
            for k, (name, variants) in enumerate(FAMILIES.items())
            for j, (variant, accuracy) in enumerate(variants.items())
        ]
        profiles |= {f"{kind}{n}": make_profile(f"{kind}{n}", *measured, device_type=kind) for n in range(4)}
    catalog = make_catalog(*(make_family(name, variants) for name, variants in FAMILIES.items()))
    return Planner(catalog, profiles, policy_named("proteus"), headroom=1.0, inputs={})


def test_the_best_plan_so_far_is_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told so once HiGHS has a first point, which is not proven by then: each solve ends at the next check."""
    checks = 0

    def ask_once_there_is_a_point(_goal: object, value: float, _bound: float, _checks: int) -> bool:
        nonlocal checks
        checks += 1
        assert math.isfinite(value)
        INTERRUPTION.ask()
        INTERRUPTION.ends_s = math.inf  # however slow the machine is
        return False

    monkeypatch.setattr(solve._Goal, "is_reached", ask_once_there_is_a_point)
    plan = planner()(DEMAND)
    assert plan.solver.status == "time limit"
    assert plan.placements
    assert plan.solver.gap > 0
    assert checks == 1, "from then on, a point is enough"


def test_without_a_point_in_time_there_is_no_plan() -> None:
    INTERRUPTION.ask()
    INTERRUPTION.ends_s = 0.0
    with pytest.raises(NoFeasiblePlan, match="before it was ended early"):
        planner()(DEMAND)
