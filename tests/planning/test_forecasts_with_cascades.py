"""Plans for a forecast with cascades, against every way to host on two or three devices."""

import math

import numpy as np
from drawing import examples
from exhaustive import Cascading, Hosting, allowed_hostings, hosting_of
from hypothesis import given
from hypothesis import strategies as st
from linear_program import least
from test_forecasts import curves
from tiny_fleets import Tiny
from tiny_rules import cascaded_fleets

from proteus_cli.domain.demand import Forecast, LossCurve


def accuracy_in_time(tiny: Tiny, hosting: Hosting, by_family: dict[str, LossCurve]) -> float:
    """The most that the queries of all families, answered in time, can have in the mean; -inf if some have no capacity.

    Of a family, what goes ways of at least an accuracy is a capacity for which its curve says what is lost.
    """
    shared = Cascading(tiny, hosting)
    ways, families = len(shared.accuracy), list(shared.wanted)
    if any(not shared.part_of[family].any() for family in families):
        return -math.inf
    most = shared.rows[len(families) :]  # without those by which no more than the demand goes any way
    rows, limits = [row for row, _ in most], [limit for _, limit in most]
    worth, constant = [np.zeros(ways)], 0.0
    steps = [(f, a) for f in families for a in sorted({*shared.accuracy[shared.part_of[f] > 0]}, reverse=True)]
    lost_of = np.eye(len(steps))
    rows = [np.r_[row, np.zeros(len(steps))] for row in rows]
    for k, (family, accuracy) in enumerate(steps):
        up_to = shared.part_of[family] * (shared.accuracy >= accuracy)
        for lost_frac, saved in (*by_family[family].lines, (by_family[family].lost[-1], 0.0)):
            rows.append(np.r_[-saved * up_to, -lost_of[k]])
            limits.append(-lost_frac)
        is_last = k + 1 == len(steps) or steps[k + 1][0] != family
        gained = (
            shared.wanted[family] / sum(shared.wanted.values()) * (accuracy - (0.0 if is_last else steps[k + 1][1]))
        )
        worth.append(np.array([gained]))
        constant += gained
    for family in families:
        rows.append(np.r_[-shared.part_of[family], np.zeros(len(steps))])
        limits.append(-1.0)
    lost = least(np.concatenate(worth), np.array(rows), limits)
    return -math.inf if lost is None else constant - lost


@given(cascaded_fleets(), st.tuples(curves(), curves()))
@examples(8, fuzzed=60)
def test_no_hosting_and_no_cascade_loses_less(tiny: Tiny, both: tuple[LossCurve, LossCurve]) -> None:
    by_family = dict(zip(tiny.accuracy, both, strict=False))
    best = max(accuracy_in_time(tiny, hosting, by_family) for hosting in allowed_hostings(tiny))
    if best == -math.inf:
        return
    forecast = Forecast(tiny.demand_qps, by_family)
    plan = tiny.planner(forecast)
    assert sum(plan.unserved_qps.values()) <= 1e-6 * sum(tiny.demand_qps.values())
    found = accuracy_in_time(tiny, hosting_of(tiny, plan), by_family)
    assert found >= best - 0.01 * (1 - best) - 1e-4
