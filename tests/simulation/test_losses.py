"""Hosts that are lost with all their devices: given up and taken back as live.

A device of `played` runs one request in 10 ms, and loads in no time; checks for the return of a device come each 0.1 s.
"""

import math

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

from proteus_cli.control.batching import GreedyBatcher
from proteus_cli.control.devices.breaker import CHECK_EVERY_S, FIRST_RETRY_S
from proteus_cli.control.policies import Policy
from proteus_cli.control.replanning.replan_rules import PeriodicRule
from proteus_cli.domain.demand import Demand
from proteus_cli.domain.device import NONE_OUT, Outages
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.report import Loss
from proteus_cli.domain.request import Outcome
from proteus_cli.domain.trace import Trace
from proteus_cli.simulation.conditions import Conditions, Failure
from proteus_cli.simulation.fleet import SimulationResult
from proteus_cli.simulation.plan_changes import ReplanFunction
from proteus_cli.simulation.run import simulate

RUN_S = 0.01
SPARSE_S = 0.02  # between requests, of which one device carries twice as many
CATALOG = make_catalog(make_family("a", {"s": 0.6}, slo="1s"))
MEASURED = make_measured("a", "s", 0.6, {1: RUN_S})
FIXED = Policy("test", "all", GreedyBatcher(), None, admits="all")
DEVICES = ("h/cpu0", "h/cpu1", "g/cpu0")
H = DEVICES[:2]


def played(
    trace: Trace, *failures: Failure, devices: tuple[str, ...] = DEVICES, policy: Policy = FIXED,
    replan: ReplanFunction = never,
) -> SimulationResult:  # fmt: skip
    profiles = {device: make_profile(device, MEASURED) for device in devices}
    return simulate(
        trace, plan_of(*devices), CATALOG, profiles, policy, replan,
        conditions=Conditions(load_time_s=0.0, failures=failures),
    )  # fmt: skip


def plan_of(*devices: str) -> Plan:
    placements = (make_placement(device, "a", "s", capacity_qps=100.0, max_batch=1) for device in devices)
    return make_plan(*placements, demand_qps={"a": 100.0}, devices=DEVICES)


def evenly(until_s: float, every_s: float = 0.004) -> Trace:
    """Each 4 ms, more than two devices carry."""
    return make_trace(*((n * every_s, "a") for n in range(round(until_s / every_s))), families=("a",))


def host(from_s: float, until_s: float) -> Failure:
    return Failure(H, from_s, until_s, "h")


def starts(run: SimulationResult, *devices: str) -> list[float]:
    return [at_s for at_s, launch in run.launches if launch.hosted.device in devices]


def back_s(run: SimulationResult, after_s: float, *devices: str) -> float:
    return min(at_s for at_s in starts(run, *devices) if at_s > after_s)


def just_after(at_s: float, checks: int = 1) -> object:
    """When a device serves that can be tried then: after the next look, and a batch."""
    return pytest.approx(at_s + RUN_S + CHECK_EVERY_S * checks / 2, abs=CHECK_EVERY_S * checks / 2 + SPARSE_S)


def test_all_devices_of_a_host_are_lost_in_the_same_instant() -> None:
    """What ran on one of them runs elsewhere, not on the other, and so no request is lost twice."""
    run = played(evenly(2.0), host(1.0021, math.inf))
    assert max(starts(run, *H)) <= 1.0021
    assert run.losses == [Loss("host h", 2, 1.0021)]
    assert sum(ended.outcome is Outcome.FAILED for ended in run.ended) == 0
    twice = [request.id for _, launch in run.launches for request in launch.requests]
    assert len(twice) - len(set(twice)) == 2, "the two that ran there"


def test_the_loss_of_a_host_is_one_reason_for_one_plan_and_so_is_its_return() -> None:
    asked: list[Outages] = []

    def replan(_demand: Demand, _plan: Plan, without: Outages = NONE_OUT) -> Plan:
        asked.append(without)
        return plan_of(*(device for device in DEVICES if device not in without.devices))

    policy = Policy("test", "all", GreedyBatcher(), PeriodicRule(period_s=100.0), admits="all")
    run = played(evenly(20.0, SPARSE_S), host(12.0, 13.0), policy=policy, replan=replan)
    assert asked == [Outages(devices=frozenset(H)), NONE_OUT]
    assert [change.reason for change in run.replans] == ["host h was lost (2 devices)", "host h is back (2 devices)"]


def test_a_lost_host_is_tried_again_at_pauses_and_its_devices_wait_for_it() -> None:
    """Tried after 0.1, 0.3, 0.7 and 1.5 s; the devices could be tried from 0.5 s on, and fail no probation."""
    run = played(evenly(16.0), host(12.0, 13.0))
    assert [back_s(run, 12.0, device) for device in H] == [just_after(13.5)] * 2
    assert run.losses[0].back_s == pytest.approx(back_s(run, 12.0, *H))


def test_the_devices_of_a_host_that_is_back_at_once_are_tried_when_their_breakers_say() -> None:
    run = played(evenly(14.0), host(12.0, 12.05))
    assert back_s(run, 12.0, *H) == just_after(12.0 + FIRST_RETRY_S)


def test_a_host_that_flaps_is_tried_later_each_time() -> None:
    """Connected 0.1 s after the first loss, 0.2 s after the second …; its devices are tried after 0.5, 1 and 2 s."""
    run = played(evenly(20.0), host(12.0, 12.01), host(13.0, 13.01), host(15.0, 15.01))
    found = [back_s(run, at_s, *H) for at_s in (12.0, 13.0, 15.0)]
    assert found == [just_after(12.5), just_after(14.0), just_after(17.0)]
    assert [(loss.what, loss.devices, loss.at_s) for loss in run.losses] == [("host h", 2, at) for at in (12, 13, 15)]


def test_a_host_that_is_lost_again_during_probations_begins_anew() -> None:
    """Its devices take 10 ms to be tried out, from a check at 12.5 or 12.6 s on."""
    profiles = {device: make_profile(device, MEASURED) for device in DEVICES}
    conditions = Conditions(load_time_s=1.0, failures=(host(12.0, 12.05), host(13.0, 13.05)))
    run = simulate(evenly(20.0), plan_of(*DEVICES), CATALOG, profiles, FIXED, never, conditions=conditions)
    assert back_s(run, 12.0, *H) == just_after(14.0 + 1.0)
    assert [loss.at_s for loss in run.losses] == [12.0], "nothing served in between"


def test_a_run_ends_where_a_host_fails_for_good() -> None:
    """All that is there: what waits is dropped."""
    run = played(evenly(1.0), host(0.5, math.inf), devices=H)
    assert len(run.ended) == 250
    assert {ended.outcome for ended in run.ended if ended.arrival_s > 0.5} == {Outcome.DROPPED}


def test_what_was_on_two_lost_devices_fails() -> None:
    """It may be to blame. The request of 0.5 s is on cpu0 when that is lost, and then on cpu1."""
    trace = make_trace((0.5, "a"), (0.9, "a"))
    failures = Failure(("h/cpu0",), 0.505, 0.505), Failure(("h/cpu1",), 0.51, 0.51)
    run = played(trace, *failures, devices=H)
    assert [(ended.arrival_s, ended.outcome) for ended in run.ended] == [(0.5, Outcome.FAILED), (0.9, Outcome.SERVED)]


def test_a_device_of_a_host_may_fail_alone_and_the_host_later() -> None:
    run = played(evenly(16.0), Failure(("h/cpu0",), 11.9, 11.9), host(12.0, 12.05))
    assert [(loss.what, loss.devices) for loss in run.losses] == [("h/cpu0", 1), ("host h", 1)]
