"""Loads that take time, batches that scatter, devices that fail."""

import math

import msgspec
import numpy as np
import pytest
from builders import (
    make_catalog,
    make_family,
    make_measured,
    make_placement,
    make_plan,
    make_profile,
    make_trace,
    never,
)
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.devices.breaker import CHECK_EVERY_S
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import PeriodicRule
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.profile import Point
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.trace import Trace
from proteus_cli.errors import NoFeasiblePlan, UsageError
from proteus_cli.simulation.conditions import SOLVE_S, Conditions, Failure, parse_failure
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.plan_changes import ReplanFunction
from proteus_cli.simulation.run import simulate
from proteus_cli.simulation.timing import LatencySampler

CATALOG = make_catalog(make_family("a", {"a-s": 0.6, "a-l": 1.0}, slo="1s"))
MEASURED = (
    make_measured("a", "a-s", 0.6, {1: 0.01}, load_s=0.5),
    make_measured("a", "a-l", 1.0, {1: 0.01}, load_s=0.5),
)
LOOK_S = CHECK_EVERY_S + 0.001
FIXED = Policy("test", "all", GreedyBatcher(), None, admits="all")
EVERY_SECOND = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=1.0), admits="all")


def plan_of(**hosts: str) -> Plan:
    """A variant of `a` by device; devices that host nothing by an empty name."""
    placements = (
        make_placement(device, "a", name.replace("_", "-"), capacity_qps=100.0, max_batch=1)
        for device, name in hosts.items()
        if name
    )
    return make_plan(*placements, demand_qps={"a": 100.0}, devices=tuple(hosts))


def evenly(until_s: float, every_s: float = 0.1) -> Trace:
    return make_trace(*((n * every_s, "a") for n in range(round(until_s / every_s))), families=("a",))


def played(
    trace: Trace, plan: Plan, *failures: Failure, load_time_s: float | None = None,
    policy: Policy = FIXED, replan: ReplanFunction = never,
) -> SimulationResult:  # fmt: skip
    profiles = {device: make_profile(device, *MEASURED) for device in plan.devices}
    conditions = Conditions(load_time_s=load_time_s, failures=failures)
    return simulate(trace, plan, CATALOG, profiles, policy, replan, conditions=conditions)


def lost(device: str, from_s: float, until_s: float) -> Failure:
    return Failure((device,), from_s, until_s)


def back_after(run: SimulationResult, at_s: float) -> float:
    """When the first batch begins after that time."""
    return min(started_s for started_s, _ in run.launches if started_s > at_s)


def starts(run: SimulationResult, device: str, variant: str | None = None) -> list[float]:
    return [
        at_s for at_s, launch in run.launches
        if launch.hosted.device == device and variant in (None, launch.hosted.variant)
    ]  # fmt: skip


def count(run: SimulationResult, outcome: Outcome) -> int:
    return sum(ended.outcome is outcome for ended in run.ended)


# --- loads


def changing(run_s: float, load_time_s: float | None) -> SimulationResult:
    """One device that hosts a-s; the plan of each second wants a-l."""
    return played(
        evenly(run_s), plan_of(cpu0="a_s"), load_time_s=load_time_s, policy=EVERY_SECOND,
        replan=lambda *_: plan_of(cpu0="a_l"),
    )  # fmt: skip


def test_a_device_serves_nothing_while_it_loads_and_its_queue_is_not_lost() -> None:
    """Asked for at 1 s, there at 1.05, loaded at 1.35: what arrived at 1.1, 1.2 and 1.3 s is answered then."""
    run = changing(2.0, 0.3)
    assert run.replans[0].at_s == pytest.approx(1.0 + SOLVE_S)
    assert max(starts(run, "cpu0", "a-s")) == pytest.approx(1.0)
    assert starts(run, "cpu0", "a-l")[:4] == pytest.approx([1.35, 1.36, 1.37, 1.4])
    assert count(run, Outcome.SERVED) == 20


def test_a_load_starts_when_what_runs_has_ended() -> None:
    """A batch of 10 ms that starts at 1.045 s ends at 1.055."""
    trace = make_trace((0.0, "a"), (1.045, "a"), (1.1, "a"), families=("a",))
    run = played(
        trace, plan_of(cpu0="a_s"), load_time_s=0.3, policy=EVERY_SECOND, replan=lambda *_: plan_of(cpu0="a_l")
    )
    assert starts(run, "cpu0", "a-l") == pytest.approx([1.355])


def test_without_a_load_time_variants_load_beside_what_serves_in_the_profiles_time() -> None:
    """Asked for at 1 s; 0.05 s to solve and 0.5 to load. Until then a-s goes on."""
    run = changing(2.0, None)
    assert run.replans[0].at_s == pytest.approx(1.55)
    assert max(starts(run, "cpu0", "a-s")) == pytest.approx(1.5)
    assert min(starts(run, "cpu0", "a-l")) == pytest.approx(1.6)


def test_a_load_time_of_nothing_changes_variants_at_once() -> None:
    run = changing(2.0, 0.0)
    assert max(starts(run, "cpu0", "a-s")) == pytest.approx(1.0)
    assert min(starts(run, "cpu0", "a-l")) == pytest.approx(1.1)


def test_a_load_that_the_next_plan_no_longer_wants_is_given_up_for_another() -> None:
    """The load of a-l for 3 s starts at 1.05. The next plan wants a-s again, which was unloaded for that: 3 s more."""
    plans = iter([plan_of(cpu0="a_l"), *[plan_of(cpu0="a_s")] * 9])
    run = played(evenly(8.0), plan_of(cpu0="a_s"), load_time_s=3.0, policy=EVERY_SECOND, replan=lambda *_: next(plans))
    assert starts(run, "cpu0", "a-l") == []
    assert run.replans[1].at_s < 4.05
    assert min(at_s for at_s in starts(run, "cpu0") if at_s > 1.01) == pytest.approx(run.replans[1].at_s + 3.0)


def test_no_more_than_half_of_a_family_loads_at_once_as_in_the_live_server() -> None:
    """Asked for at 1 s, there at 1.05: two of four devices load until 2.05, the other two until 3.05."""
    policy = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=1.0), assignment="uniform", admits="all")
    before, after = ({f"cpu{n}": variant for n in range(4)} for variant in ("a_s", "a_l"))
    run = played(
        evenly(4.0), plan_of(**before), load_time_s=1.0, policy=policy, replan=lambda *_: plan_of(**after)
    )  # fmt: skip
    first = [min(starts(run, device, "a-l")) for device in before]
    assert first == pytest.approx([2.05, 2.05, 3.05, 3.05], abs=0.4)
    assert max(first[:2]) < 3.0 < min(first[2:])


def test_a_plan_that_cannot_be_made_is_tried_again_after_longer_and_longer_pauses() -> None:
    """Each second is a reason to re-plan; after failures at 1, 2 and 4 s the pauses are 1, 2 and 4 s."""
    asked_s: list[float] = []

    def replan(_demand: Demand, _plan: Plan) -> Plan:
        asked_s.append(len(asked_s))
        raise NoFeasiblePlan("none")

    run = played(evenly(10.0), plan_of(cpu0="a_s"), policy=EVERY_SECOND, replan=replan)
    assert len(asked_s) == 4
    assert run.replans == []


# --- failures


def test_a_lost_device_runs_nothing_and_what_it_ran_is_run_by_another() -> None:
    """The batch that cpu0 starts at 0.1 s would end at 0.11; at 0.105 it is lost, and cpu1 runs it again."""
    trace = make_trace((0.1, "a"), (0.3, "a"), families=("a",))
    run = played(trace, plan_of(cpu0="a_s", cpu1="a_s"), lost("cpu0", 0.105, math.inf))
    assert starts(run, "cpu0") == pytest.approx([0.1])
    assert starts(run, "cpu1") == pytest.approx([0.105, 0.3])
    assert [ended.latency_s for ended in run.ended] == pytest.approx([0.015, 0.01])
    assert {ended.device for ended in run.ended} == {"cpu1"}


@pytest.mark.parametrize(("load_time_s", "loaded_s"), [(None, 0.5), (0.0, 0.0), (1.0, 1.0)])
def test_a_device_that_is_back_is_tried_out_before_it_serves(load_time_s: float | None, loaded_s: float) -> None:
    """Lost from 1 to 2 s. Tries come 0.5 s after the loss, when it can't be opened, and 1 s later: then it loads.

    Nothing is loaded on it any more, so what else would load beside keeps it from serving; then it runs a batch.
    """
    run = played(evenly(5.0, 0.004), plan_of(cpu0="a_s"), lost("cpu0", 1.0, 2.0), load_time_s=load_time_s)
    after_s = [at_s for at_s in starts(run, "cpu0") if at_s > 1.0]
    assert min(after_s) == pytest.approx(2.5 + loaded_s + 0.01, abs=LOOK_S)


def test_a_device_does_not_load_while_it_is_lost() -> None:
    """cpu1 is back at 1.2 s, tried at 1.5 s, and loads. That is no reason for cpu0, which is back at 3 s, to be ready.

    It is tried at 1.5, 2.5 and 4.5 s.
    """
    failures = lost("cpu0", 1.0, 3.0), lost("cpu1", 1.0, 1.2)
    run = played(evenly(7.0, 0.004), plan_of(cpu0="a_s", cpu1="a_s"), *failures, load_time_s=0.5)
    assert min(at_s for at_s in starts(run, "cpu1") if at_s > 1.0) == pytest.approx(2.01, abs=LOOK_S)
    assert min(at_s for at_s in starts(run, "cpu0") if at_s > 1.0) == pytest.approx(5.01, abs=2 * LOOK_S)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_failures_at_a_time_the_longer_one_counts(order: int) -> None:
    """From 1 to 2 s and from 1.4 to 3 s: not back at 2.5."""
    failures = [lost("cpu0", 1.0, 2.0), lost("cpu0", 1.4, 3.0)][::order]
    run = played(evenly(6.0), plan_of(cpu0="a_s"), *failures, load_time_s=0.0)
    assert back_after(run, 1.0) == pytest.approx(4.5, abs=0.1 + 2 * LOOK_S)
    assert [(loss.what, loss.devices, loss.at_s) for loss in run.losses] == [("cpu0", 1, 1.0)]


def test_two_failures_that_end_at_the_same_moment_end_once() -> None:
    failures = lost("cpu0", 1.0, 3.0), lost("cpu0", 1.5, 3.0)
    run = played(evenly(6.0), plan_of(cpu0="a_s"), *failures, load_time_s=0.0)
    assert back_after(run, 1.0) >= 3.0
    assert (len(run.ended), len(run.losses)) == (60, 1)


def test_the_next_plan_does_without_a_lost_device_and_then_with_it_again() -> None:
    asked: list[tuple[float, Outages]] = []

    def replan(demand: Demand, _plan: Plan, without: Outages = NONE_OUT) -> Plan:
        asked.append((demand["a"], without))
        return plan_of(cpu0="" if without else "a_s", cpu1="a_l")

    policy = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=100.0))
    run = played(evenly(8.0), plan_of(cpu0="a_s", cpu1="a_l"), lost("cpu0", 1.5, 4.5), policy=policy, replan=replan)
    assert [replan.reason for replan in run.replans] == ["cpu0 was lost", "cpu0 is back"]
    assert [without for _, without in asked] == [Outages(devices=frozenset({"cpu0"})), NONE_OUT]
    assert count(run, Outcome.SERVED) == 80


def test_where_no_plan_can_be_made_without_it_the_run_goes_on() -> None:
    """The only device: asked for at 2 s, when it is lost, and again when it is back."""

    def replan(_demand: Demand, _plan: Plan, without: Outages = NONE_OUT) -> Plan:
        if without:
            raise NoFeasiblePlan("No device is left.")
        return plan_of(cpu0="a_s")

    policy = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=100.0))
    run = played(
        evenly(8.0), plan_of(cpu0="a_s"), lost("cpu0", 1.5, 3.5), load_time_s=0.0, policy=policy, replan=replan
    )
    assert len(run.ended) == 80
    assert [replan.reason for replan in run.replans] == ["cpu0 is back"]
    assert starts(run, "cpu0")[-1] == pytest.approx(7.9)


def test_what_a_device_that_never_returns_leaves_is_dropped_at_the_end() -> None:
    run = played(evenly(2.0), plan_of(cpu0="a_s"), lost("cpu0", 0.95, math.inf))
    assert (count(run, Outcome.SERVED), count(run, Outcome.DROPPED)) == (10, 10)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("v100-3@60s..120s", lost("v100-3", 60.0, 120.0)),
        ("v100-3@1min..", lost("v100-3", 60.0, math.inf)),
        ("v100-3@0s..500ms", lost("v100-3", 0.0, 0.5)),
        ("h@60s..90s", Failure(("h/v100-0", "h/cpu-0"), 60.0, 90.0, "h")),
        ("h/cpu-0@60s..90s", lost("h/cpu-0", 60.0, 90.0)),
        ("d@60s..90s", lost("d", 60.0, 90.0)),
    ],
)
def test_a_failure_is_a_device_or_a_host_with_two_times(text: str, failure: Failure) -> None:
    """A device comes before a host of its name."""
    assert parse_failure(text, ["v100-3", "h/v100-0", "d", "h/cpu-0", "d/cpu-0"]) == failure


@pytest.mark.parametrize(
    "text",
    [
        "", "v100-3", "v100-3@", "@60s..120s", "v100-3@60s", "v100-3@..120s", "v100-3@60s..120s..180s",
        "v100-3@60..120", "v100-3@120s..60s", "v100-3@60s..60s", "v100-3@-1s..60s", "v100-3@inf..", "v100-3@60s..inf",
        "v100-4@60s..120s", "v100-3@60s..120s,", "v100-3@60s..120s,hangs", "h@1s..2s",
    ],
)  # fmt: skip
def test_a_failure_that_makes_no_sense_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_failure(text, {"v100-3"})
    assert caught.value.hint


# --- scatter

SCATTERED = msgspec.structs.replace(
    MEASURED[0],
    points=(
        Point(1, 10, 0.011, 0.010, 0.014, 0.016, 0.020, 90.0),
        Point(4, 10, 0.022, 0.020, 0.028, 0.032, 0.040, 180.0),
    ),
)


def quantile_s(at: float, rows: int = 1) -> float:
    """What the profile says of a batch of one, by hand; of four it is twice that."""
    p50_s, p90_s, p95_s, p99_s = 0.010, 0.014, 0.016, 0.020
    if at < 0.5:
        one_s = p50_s
    elif at < 0.9:
        one_s = p50_s + (p90_s - p50_s) * (at - 0.5) / 0.4
    elif at < 0.95:
        one_s = p90_s + (p95_s - p90_s) * (at - 0.9) / 0.05
    else:
        one_s = min(p99_s, p95_s + (p99_s - p95_s) * (at - 0.95) / 0.04)
    return one_s * {1: 1.0, 2: 4 / 3, 3: 5 / 3, 4: 2.0, 8: 4.0}[rows]


@pytest.mark.parametrize("max_frac", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 8])
def test_a_batch_takes_what_a_drawn_part_of_the_batches_took_at_most(rows: int, max_frac: float) -> None:
    """Linear between the percentiles, and between batch sizes; beyond the largest, twice the rows take twice that."""
    scatter, same = LatencySampler(SCATTERED.points, max_frac, np.random.default_rng(3)), np.random.default_rng(3)
    drawn = [scatter(rows) for _ in range(200)]
    assert drawn == pytest.approx([quantile_s(same.uniform(0.0, max_frac), rows) for _ in range(200)])
    assert min(drawn) == pytest.approx(quantile_s(0.0, rows))
    assert max(drawn) <= quantile_s(max_frac, rows) + 1e-12
    assert len(set(drawn)) > 20


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_scatter_stays_within_the_median_and_the_percentile(seed: int, rows: int) -> None:
    scatter = LatencySampler(SCATTERED.points, 0.95, np.random.default_rng(seed))
    median, most = LatencySampler(SCATTERED.points, 0.0, np.random.default_rng(0))(rows), 0.016 / 0.010
    assert median - 1e-12 <= scatter(rows) <= median * most + 1e-12


def test_jitter_makes_batches_of_one_size_differ_and_a_seed_makes_them_repeat() -> None:
    profiles = {"cpu0": make_profile("cpu0", SCATTERED)}

    def run(seed: int, jitter: float | None) -> list[float | None]:
        simulated = simulate(
            evenly(3.0), plan_of(cpu0="a_s"), CATALOG, profiles, FIXED, never,
            conditions=Conditions(jitter=jitter), rng=np.random.default_rng(seed),
        )  # fmt: skip
        return [ended.latency_s for ended in simulated.ended]

    assert {round(latency_s or 0.0, 9) for latency_s in run(1, None)} == {0.011}
    assert len({round(latency_s or 0.0, 9) for latency_s in run(1, 0.95)}) > 10
    assert run(1, 0.95) == run(1, 0.95) != run(2, 0.95)
