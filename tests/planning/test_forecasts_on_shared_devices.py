"""Plans for a forecast where devices host several variants, against every way to host and to divide their time."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from builders import near
from hypothesis import example, given, settings
from hypothesis import strategies as st
from linear_program import least
from test_forecasts import ACCURACY, CAPACITIES, QPS, curve_of, curves, planner

from proteus_cli.domain.demand import Forecast, LossCurve
from proteus_cli.domain.plan import Plan

KEYS = [(family, variant) for family in ACCURACY for variant in ("large", "small")]
BURSTY = LossCurve(CAPACITIES, (1.0, 0.8, 0.74, 0.68, 0.6, 0.5, 0.3, 0.0))


Worths = Mapping[str, Mapping[str, float]]
"""What an answer counts, by family and variant."""


def planned(devices: int, forecast: Forecast, preferring_latency: str = "") -> Plan:
    return planner(devices, residency=2, preferring_latency=preferring_latency)(forecast)


@dataclass(frozen=True)
class Row:
    """``factors · capacity by key + part lost of a step >= least``; without a step, of capacity alone."""

    factors: dict[tuple[str, str], float]
    step: tuple[str, str] | None
    least: float


def in_order(family: str, worths: Worths) -> list[tuple[str, str]]:
    """The variants of a family, that of the most worth first."""
    return [(family, variant) for variant in sorted(QPS, key=lambda name: -worths[family][name])]


def rows(forecast: Forecast, worths: Worths) -> Iterator[Row]:
    for family, qps in forecast.items():
        of_family = in_order(family, worths)
        yield Row(dict.fromkeys(of_family, 1 / qps), None, 1.0)
        for count in (1, 2):
            for lost, fall in forecast.curves[family].lines:
                yield Row(dict.fromkeys(of_family[:count], fall / qps), of_family[count - 1], lost)
            yield Row({}, of_family[count - 1], forecast.curves[family].lost[-1])


def least_loss(forecast: Forecast, hosted: tuple[tuple[tuple[str, str], ...], ...], worths: Worths = ACCURACY) -> float:
    """With the best division of each device's time among what it hosts; infinite without capacity for the mean."""
    held = [(device, key) for device, keys in enumerate(hosted) for key in keys]
    size, total_qps = len(held), sum(forecast.values())
    cost = np.zeros(size + len(KEYS))
    for k, (family, variant) in enumerate(KEYS):
        after = [worths[f][v] for f, v in in_order(family, worths) if worths[f][v] < worths[family][variant]]
        cost[size + k] = forecast[family] / total_qps * (worths[family][variant] - max(after, default=0.0))
    at_least = []
    for row in rows(forecast, worths):
        factors = np.zeros(len(cost))
        factors[:size] = [row.factors.get(key, 0.0) for _, key in held]
        if row.step is not None:
            factors[size + KEYS.index(row.step)] = 1.0
        at_least.append((factors, row.least))
    busy = [[(device == d) / QPS[key[1]] for device, key in held] + [0.0] * len(KEYS) for d in range(len(hosted))]
    found = least(
        cost,
        np.array([*(-factors for factors, _ in at_least), *busy]),
        [*(-limit for _, limit in at_least), *(1.0 for _ in hosted)],
    )
    return np.inf if found is None else found


def loss_of(plan: Plan, forecast: Forecast, worths: Worths = ACCURACY) -> float:
    """By what its placements say that they can carry."""
    capacity_qps: defaultdict[tuple[str, str], float] = defaultdict(float)
    for placement in plan.placements:
        capacity_qps[placement.family, placement.variant] += placement.capacity_qps
    lost, total_qps = 0.0, sum(forecast.values())
    for family, qps in forecast.items():
        keys = in_order(family, worths)
        best, other = (capacity_qps[key] / qps for key in keys)
        parts = [forecast.curves[family].at(capacity) for capacity in (best, best + other)]
        most, least = (worths[family][variant] for _, variant in keys)
        lost += qps / total_qps * (parts[0] * (most - least) + parts[1] * least)
    return lost


@given(
    devices=st.integers(1, 2),
    demand=st.tuples(st.floats(1.0, 40.0), st.floats(1.0, 40.0)),
    both=st.tuples(curves(), curves()),
)
@example(devices=1, demand=(12.0, 1.0), both=(curve_of(0.5), curve_of(0.5)))
@settings(max_examples=12, deadline=None)
def test_no_way_to_host_and_to_divide_time_loses_less(
    devices: int, demand: tuple[float, float], both: tuple[LossCurve, LossCurve]
) -> None:
    """And what the solver counts on is what the placements carry."""
    forecast = Forecast(dict(zip("ab", demand, strict=True)), dict(zip("ab", both, strict=True)))
    sets = [keys for count in (0, 1, 2) for keys in combinations(KEYS, count)]
    lowest = min(least_loss(forecast, hosted) for hosted in combinations_with_replacement(sets, devices))
    plan = planned(devices, forecast)
    assert sum(plan.unserved_qps.values()) == pytest.approx(0.0, abs=1e-6)
    assert loss_of(plan, forecast) <= lowest * 1.01 + 1e-4


@given(
    devices=st.integers(1, 2),
    demand=st.tuples(st.floats(1.0, 40.0), st.floats(1.0, 40.0)),
    both=st.tuples(curves(), curves()),
)
@settings(max_examples=12, deadline=None)
def test_nor_does_any_where_a_family_prefers_latency(
    devices: int, demand: tuple[float, float], both: tuple[LossCurve, LossCurve]
) -> None:
    """Of the SLO of 1 s, the small variant takes 10 ms and the large one 50 ms."""
    worths = {"a": ACCURACY["a"], "b": {"small": 0.99 * 0.995 + 0.005, "large": 0.99 * 0.975 + 0.009}}
    forecast = Forecast(dict(zip("ab", demand, strict=True)), dict(zip("ab", both, strict=True)))
    sets = [keys for count in (0, 1, 2) for keys in combinations(KEYS, count)]
    lowest = min(least_loss(forecast, hosted, worths) for hosted in combinations_with_replacement(sets, devices))
    plan = planned(devices, forecast, "b")
    assert sum(plan.unserved_qps.values()) == pytest.approx(0.0, abs=1e-6)
    assert loss_of(plan, forecast, worths) <= lowest * 1.01 + 1e-4


def test_a_device_keeps_time_for_bursts_beside_its_accurate_variant() -> None:
    """8 qps fit `large` alone. Arrivals scatter, so `small` beside it has a part of the time, and no share."""
    steady = LossCurve(CAPACITIES, (1.0, 0.2, *(0.0,) * 6))
    plan = planned(1, Forecast({"a": 8.0, "b": 0.0}, {"a": BURSTY, "b": steady}))
    by_variant = {placement.variant: placement for placement in plan.placements if placement.family == "a"}
    assert by_variant["large"].rate_qps == near(8.0)
    assert by_variant["small"].rate_qps == 0.0
    assert by_variant["small"].capacity_qps > 0
    assert sum(p.capacity_qps / QPS[p.variant] for p in plan.placements) == near(1.0)
    assert plan.capacity_qps("a") > QPS["large"]
