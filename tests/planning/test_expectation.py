"""What plans expect to be in time, where only the rates of arrivals are known."""

import math

import msgspec
import pytest
from builders import hosted, make_catalog, make_family, make_measured, make_placement, make_plan, make_profile, near

from proteus_cli.control.decision import HostedVariant
from proteus_cli.control.replanning.loss_curves import REACHED_FRAC
from proteus_cli.domain.plan import Placement
from proteus_cli.planning.analysis.expectation import expecting, lost_frac

MAY_WAIT_S = 0.05


def serving(
    count: int, *, rows: int = 1, fixed_s: float = 0.0, capacity_qps: float = 100.0
) -> list[tuple[Placement, HostedVariant]]:
    """So many alike hosts; a batch takes ``fixed_s`` and its part of the rest."""
    full_s = rows / capacity_qps
    times_s = {n: fixed_s + (full_s - fixed_s) * n / rows for n in range(1, rows + 1)}
    host = hosted(variant="v", latency_s=times_s, max_batch=rows, capacity_qps=capacity_qps)
    placement = make_placement("cpu0", "a", "v", capacity_qps=capacity_qps, max_batch=rows)
    return [(placement, host)] * count


@pytest.mark.parametrize("load", [0.8, 0.95, 0.9999, 1.0, 1.3])
def test_hosts_without_batches_lose_what_a_loss_curve_has_for_poisson_arrivals(load: float) -> None:
    rate_qps = load * 400.0
    drift, depth = 1 - REACHED_FRAC / load, MAY_WAIT_S * REACHED_FRAC * 400.0 + 1
    assert lost_frac(rate_qps, serving(4), MAY_WAIT_S) == pytest.approx(
        drift / -math.expm1(-2 * drift * depth), rel=1e-3
    )


def test_batches_that_are_not_full_carry_less_so_that_more_is_lost() -> None:
    """Half of a full batch's time does not depend on its rows."""
    by_rows, by_batch = (serving(1, rows=8, fixed_s=fixed_s) for fixed_s in (0.0, 0.04))
    assert lost_frac(85.0, by_rows, MAY_WAIT_S) < lost_frac(85.0, by_batch, MAY_WAIT_S)


def test_more_is_lost_the_more_arrives() -> None:
    loads = (0.5, 0.7, 0.9, 1.1, 2.0)
    found = [lost_frac(load * 100.0, serving(1, rows=4, fixed_s=0.01), MAY_WAIT_S) for load in loads]
    assert found == sorted(found)
    assert found[0] < 1e-3
    assert found[-1] == pytest.approx(1 - REACHED_FRAC / 2, rel=0.02)


def test_a_plan_for_rates_says_what_it_expects_of_each_family_with_a_demand() -> None:
    """`b` has no host, and `c` no demand. Without headroom, `a` loses some percent."""
    catalog = make_catalog(*(make_family(name, {"v": 0.9}) for name in ("a", "b", "c")))
    profiles = {"cpu0": make_profile("cpu0", make_measured("a", "v", 0.9, {1: 0.02, 4: 0.04}))}
    placed = make_placement("cpu0", "a", "v", rate_qps=95.0, capacity_qps=100.0)
    plan = make_plan(placed, demand_qps={"a": 95.0, "b": 1.0, "c": 0.0}, served_qps={"a": 95.0, "b": 0.0, "c": 0.0})
    found = expecting(plan, catalog, profiles)
    assert found.expected_attainment.get("b") == 0.0
    assert found.expected_attainment.get("c") is None
    assert 0.9 < (found.expected_attainment.get("a") or 0.0) < 0.99
    calm = msgspec.structs.replace(plan, demand_qps={"a": 30.0})
    assert expecting(calm, catalog, profiles).expected_attainment.get("a") == near(1.0)


def test_what_a_forecast_knows_of_arrivals_counts() -> None:
    catalog = make_catalog(make_family("a", {"v": 0.9}))
    profiles = {"cpu0": make_profile("cpu0", make_measured("a", "v", 0.9, {1: 0.02, 4: 0.04}))}
    plan = msgspec.structs.replace(make_plan(make_placement("cpu0", "a", "v")), expected_attainment={"a": 0.9})
    assert expecting(plan, catalog, profiles) is plan
