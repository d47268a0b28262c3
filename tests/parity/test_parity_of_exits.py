"""Multi-exit models on two clocks: the live code and the simulator cut the same queries short, at the same exits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from builders import make_plan, never
from parity_world import make_world
from virtual_time import run_live

from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.profile import Point, Profile
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.synthesis import Poisson, make_trace
from proteus_cli.serving.devices.remote.measuring import reached_over
from proteus_cli.serving.requests.in_flight import AnsweredBatch
from proteus_cli.simulation.conditions import Conditions, Failure
from proteus_cli.simulation.run import simulate

DEVICES = ("cpu0", "cpu1")
ON_HOSTS, NETWORK = ("a/cpu0", "b/cpu0"), Network(0.001, 1e6, {"a": 100})
"""A batch of a row is on its way for 1.1 ms."""
FIXED = replace(policy_named("proteus"), replanning=None, standbys=False)
SHARES, ACCURACIES, CUT = (0.6, 0.25, 0.15), (0.99, 0.95, 0.8), (0.7, 0.75, None)
BASES_S, ROWS_S = (0.002, 0.004, 0.008), (0.0005, 0.001, 0.002)
SIZES = (1, 2, 4, 8, 16, 32)


def exits() -> tuple[ExitProfile, ...]:
    """A row takes 2.5, 5 and 10 ms; the p95 is a tenth above the mean."""
    times = [[StagePoint(n, b + r * n, 1.1 * (b + r * n)) for n in SIZES] for b, r in zip(BASES_S, ROWS_S, strict=True)]
    measured = zip(SHARES, ACCURACIES, CUT, map(tuple, times), strict=True)
    return tuple(ExitProfile(*each) for each in measured)


def points() -> tuple[Point, ...]:
    """What a batch takes of which as many rows stop at each exit as their shares are; alone, a hard row at the p95."""
    left = [1.0, *(1 - np.cumsum(SHARES)[:-1])]
    found = []
    for size in SIZES:
        stages_s = zip(BASES_S, ROWS_S, left, strict=True)
        mean_s = float(sum(base_s * min(1.0, part * size) + row_s * part * size for base_s, row_s, part in stages_s))
        p95_s = max(1.1 * mean_s, 0.0175 * 1.1)
        found.append(Point(size, 50, mean_s, mean_s, mean_s, p95_s, p95_s, size / mean_s))
    return tuple(found)


def world() -> tuple[Catalog, dict[str, Profile]]:
    """As in other tests of parity, but `a-medium` has three exits."""
    catalog, profiles = make_world(DEVICES)
    variants = tuple(
        msgspec.structs.replace(each, exits=exits(), points=points(), accuracy=0.95)
        if each.variant == "a-medium"
        else each
        for each in profiles["cpu0"].variants
    )
    return catalog, {name: msgspec.structs.replace(each, variants=variants) for name, each in profiles.items()}


def plan_of(rate_qps: float, devices: Sequence[str] = DEVICES) -> Plan:
    hosts = [Placement(device, "a", "a-medium", 16, rate_qps / 2, 0.5, 600.0) for device in devices]
    return make_plan(*hosts, demand_qps={"a": rate_qps, "b": 0.0}, devices=tuple(devices))


def over(network: Network, device: str, profile: Profile) -> Profile:
    """What is measured of a device of another host."""
    named = msgspec.structs.replace(profile, device=msgspec.structs.replace(profile.device, id=device))
    return reached_over(network, named)


SHORT_S, PATIENT_S = (0.003, 0.03), (0.012, 0.06)


def a_trace(rate_qps: float, bounds_s: tuple[float, float] = SHORT_S, *, duration_s: float = 4.0) -> Trace:
    """Bounds within these, where the chain takes a row of the last exit 17.5 ms; one in twenty asks for an accuracy."""
    rng = np.random.default_rng(3)
    trace = make_trace("poisson", Poisson(), rate_qps=rate_qps, duration_s=duration_s, shares={"a": 1.0}, rng=rng)
    count = len(trace)
    minimum = np.where(np.random.default_rng(6).random(count) < 0.05, 0.9, 0.0)
    drawn_s = np.random.default_rng(5).uniform(*bounds_s, count)
    return replace(trace, confidence=np.random.default_rng(4).random(count), slo_s=drawn_s, min_accuracy=minimum)


@pytest.mark.parametrize(
    ("rate_qps", "bounds_s", "failures", "devices"),
    [
        (40.0, SHORT_S, (), DEVICES),
        (900.0, SHORT_S, (), DEVICES),
        (200.0, PATIENT_S, (), DEVICES),
        (200.0, PATIENT_S, (Failure(("cpu1",), 1.0, 2.0),), DEVICES),
        (200.0, PATIENT_S, (), ON_HOSTS),
    ],
    ids=["light", "overloaded", "with batches that some leave", "a device lost", "on other hosts"],
)
def test_both_cut_the_same_queries_short(
    rate_qps: float, bounds_s: tuple[float, float], failures: tuple[Failure, ...], devices: Sequence[str]
) -> None:
    catalog, profiles = world()
    if devices == ON_HOSTS:
        known = zip(ON_HOSTS, profiles.values(), strict=True)
        profiles = {device: over(NETWORK, device, profile) for device, profile in known}
    trace, plan = a_trace(rate_qps, bounds_s, duration_s=min(4.0, 1200 / rate_qps)), plan_of(rate_qps, devices)
    simulated = simulate(trace, plan, catalog, profiles, FIXED, never, conditions=Conditions(failures=failures))
    live = run_live(trace, plan, catalog, profiles, FIXED, never, failures)

    batches = [
        [(launch.hosted.device, launch.hosted.cuts, [each.id for each in launch.requests]) for _, launch in of.launches]
        for of in (live, simulated)
    ]
    assert batches[0] == batches[1]
    assert [at_s for at_s, _ in live.launches] == pytest.approx([at_s for at_s, _ in simulated.launches], abs=1e-6)
    assert live.outcomes == {outcome: sum(e.outcome is outcome for e in simulated.ended) for outcome in Outcome}
    served = [each for each in simulated.ended if each.outcome is Outcome.SERVED]
    assert sorted(map(answered, live.answers)) == sorted(map(told, served))
    assert live.accuracy == pytest.approx(sum(each.accuracy or 0.0 for each in served))
    assert sum(live.cut.values()) == sum(each.is_cut for each in served)
    ends_s = {(each.device, round(each.arrival_s + (each.latency_s or 0.0), 9)) for each in served}
    assert len(ends_s) > len(simulated.launches) or bounds_s != PATIENT_S, "some have left their batch"
    least_frac = 0.01 if bounds_s == PATIENT_S else 0.05
    assert least_frac * len(served) < sum(each.is_cut for each in served) < 0.9 * len(served)


def answered(batch: AnsweredBatch) -> tuple[bool, float]:
    assert batch.staged is not None
    return batch.staged.is_cut, batch.accuracy


def told(ended: RequestRecord) -> tuple[bool, float | None]:
    return ended.is_cut, ended.accuracy


def test_bounds_below_the_whole_chain_are_held() -> None:
    """Stages take their mean, and the p95 is what is predicted: so nothing is late, however short its bound."""
    catalog, profiles = world()
    trace = a_trace(40.0)
    ended = sorted(
        simulate(trace, plan_of(40.0), catalog, profiles, FIXED, never).ended, key=lambda each: each.arrival_s
    )
    assert not any(each.outcome is Outcome.LATE for each in ended)
    short = [each for each, slo_s in zip(ended, trace.slo_s, strict=True) if 0.004 < slo_s < 0.017]
    answered = [each for each in short if each.outcome is Outcome.SERVED]
    assert len(answered) > 0.8 * len(short) > 0
    assert {each.accuracy for each in answered if each.is_cut} == {0.7, 0.75}


@pytest.mark.parametrize(("slo_s", "outcome"), [(0.0085, Outcome.SERVED), (0.006, Outcome.REJECTED)])
def test_on_another_host_a_query_needs_the_time_of_the_way_and_its_first_stage(slo_s: float, outcome: Outcome) -> None:
    """The way takes 3.5 ms, and the first stage 2.5, at the p95 a tenth more. A second one would take 5 ms."""
    catalog, profiles = world()
    device, plan = "a/cpu0", plan_of(10.0, ["a/cpu0"])
    profile = over(Network(0.0034, 1e6, {"a": 100}), device, profiles["cpu0"])
    trace = a_trace(10.0, duration_s=1.0)
    count = len(trace)
    trace = replace(
        trace,
        arrival_s=np.arange(1.0, count + 1),
        slo_s=np.full(count, slo_s),
        confidence=np.zeros(count),
        min_accuracy=np.zeros(count),
    )
    ended = simulate(trace, plan, catalog, {device: profile}, FIXED, never).ended
    assert {each.outcome for each in ended} == {outcome}
    if outcome is Outcome.SERVED:
        assert {each.is_cut for each in ended} == {True}
        assert [each.latency_s for each in ended] == pytest.approx([0.006] * count)


def by_exit(ended: list[RequestRecord]) -> Mapping[float | None, float]:
    worth = [each.accuracy for each in ended]
    return {accuracy: worth.count(accuracy) / len(worth) for accuracy in set(worth)}


def test_with_time_enough_exits_answer_their_shares_and_the_mean_is_the_variants() -> None:
    catalog, profiles = world()
    trace = a_trace(20.0, duration_s=20.0)
    count = len(trace)
    ranks = (np.random.default_rng(1).permutation(count) + 0.5) / count
    trace = replace(trace, slo_s=np.full(count, np.nan), confidence=ranks, min_accuracy=np.zeros(count))
    ended = simulate(trace, plan_of(20.0), catalog, profiles, FIXED, never).ended
    assert not any(each.is_cut for each in ended)
    for accuracy, share in zip(ACCURACIES, SHARES, strict=True):
        assert by_exit(ended)[accuracy] == pytest.approx(share, abs=1 / count)
