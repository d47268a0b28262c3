"""What the plans in force expected, in the mean over the queries that they were for."""

import msgspec
from builders import make_placement, make_plan, near

from proteus_cli.control.replanning.expected_attainment import ExpectedAttainment
from proteus_cli.domain.plan import Plan


def plan_for(qps: float, share: float | None) -> Plan:
    plan = make_plan(make_placement("cpu0", "a", "v"), demand_qps={"a": qps, "b": 1.0})
    return msgspec.structs.replace(plan, expected_attainment={} if share is None else {"a": share})


def test_plans_count_by_the_queries_that_they_were_for() -> None:
    """10 s at 10 qps, then 20 s at 40 qps; for the 5 s between, the plan expects nothing; nor of b."""
    expected = ExpectedAttainment()
    expected.use(plan_for(10.0, 1.0), 0.0)
    expected.use(plan_for(70.0, None), 10.0)
    expected.use(plan_for(40.0, 0.9), 15.0)
    assert expected.mean(35.0) == {"a": near((100 * 1.0 + 800 * 0.9) / 900)}
    assert expected.counts("a", 40.0) == (near(1100.0), near(100 * 1.0 + 1000 * 0.9))
    assert expected.counts("b", 40.0) == (0.0, 0.0)


def test_nothing_is_expected_without_a_plan_or_time() -> None:
    expected = ExpectedAttainment()
    assert expected.mean(1.0) == {}
    expected.use(plan_for(10.0, 1.0), 1.0)
    assert expected.mean(1.0) == {}
