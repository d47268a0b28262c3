"""Cascades on two clocks: the live code and the simulator defer the same queries, and send the same first answers."""

import math
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from builders import make_cascade, make_cascade_point, make_plan, never
from builders import make_trace as by_hand
from parity_world import make_world
from virtual_time import run_live

from proteus_cli.arrays import Bools, Ints
from proteus_cli.backends.base import OutputArrays
from proteus_cli.control.decision import FirstStage, Launch
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.request import Outcome, Request
from proteus_cli.domain.stages.cascade import CascadeProfile
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.synthesis import Poisson, make_trace
from proteus_cli.serving.requests.answers.second_stages import Confidence
from proteus_cli.simulation.conditions import Conditions, Failure
from proteus_cli.simulation.run import simulate

DEVICES = ("cpu0", "cpu1", "cpu2")
FIXED = replace(policy_named("proteus"), replanning=None, standbys=False)


class KnownConfidence(Confidence):
    """The confidences of a trace; the server numbers requests as they come."""

    def __init__(self, trace: Trace) -> None:
        super().__init__({})
        self._known = trace.confidence

    def levels(self, request: Request, stage: FirstStage, outputs: OutputArrays) -> tuple[Ints, float | None]:
        value = float(self._known[request.id])
        return np.array([stage.level_of_rank(value)]), value

    def below(self, family: str, minimum: float, outputs: OutputArrays) -> tuple[Bools, float | None]:
        raise NotImplementedError  # no request asks for it


def a_trace(rate_qps: float, *, duration_s: float = 5) -> Trace:
    rng = np.random.default_rng(3)
    trace = make_trace("poisson", Poisson(), rate_qps=rate_qps, duration_s=duration_s, shares={"a": 1.0}, rng=rng)
    return replace(trace, confidence=np.random.default_rng(4).random(len(trace)))


def plan_of(rate_qps: float) -> Plan:
    """Nine of ten queries go by the cascade, which defers three of ten; the second stage has two devices."""
    cascade = make_cascade("a", "a-small", "a-large", rate_qps=0.9 * rate_qps, deferred_frac=0.3)
    second = [
        Placement(device, "a", "a-large", 8, 0.0, 0.0, 105.0, deferred_qps=0.135 * rate_qps) for device in DEVICES[1:]
    ]
    return make_plan(
        Placement("cpu0", "a", "a-small", 32, rate_qps, 1.0, 4400.0), *second,
        demand_qps={"a": rate_qps, "b": 0.0}, devices=DEVICES, cascades=[cascade],
    )  # fmt: skip


def batches(launches: Sequence[tuple[float, Launch]]) -> list[tuple[str, bool, tuple[int, ...]]]:
    return [
        (launch.hosted.device, launch.requests[0].is_deferred, tuple(request.id for request in launch.requests))
        for _, launch in launches
    ]


@pytest.mark.parametrize(
    ("rate_qps", "failures"),
    [
        (300.0, ()),
        (1500.0, ()),  # the second stage can take half of what is deferred
        (300.0, (Failure(("cpu1",), 1.2, 3.0), Failure(("cpu2",), 2.0, 2.5))),
    ],
    ids=["as planned", "overloaded", "second stages lost"],
)
def test_both_defer_the_same_queries_and_send_the_same_first_answers(
    rate_qps: float, failures: tuple[Failure, ...]
) -> None:
    catalog, profiles = make_world(DEVICES)
    points = make_cascade_point(0.2, 0.1, 0.85), make_cascade_point(0.3, 0.2, 0.9), make_cascade_point(0.5, 0.3, 0.92)
    known = CascadeProfile("a", "a-small", "a-large", "digest", points)
    profiles = {device: msgspec.structs.replace(each, cascades=(known,)) for device, each in profiles.items()}
    trace, plan = a_trace(rate_qps), plan_of(rate_qps)

    def never(*_asked: object) -> Plan:
        raise AssertionError("this policy never re-plans")

    simulated = simulate(trace, plan, catalog, profiles, FIXED, never, conditions=Conditions(failures=failures))
    live = run_live(trace, plan, catalog, profiles, FIXED, never, failures, KnownConfidence(trace))
    assert batches(live.launches) == batches(simulated.launches)
    assert [at_s for at_s, _ in live.launches] == pytest.approx([at_s for at_s, _ in simulated.launches], abs=1e-6)
    assert live.outcomes == {outcome: sum(e.outcome is outcome for e in simulated.ended) for outcome in Outcome}
    assert live.deferred == sum(ended.is_deferred for ended in simulated.ended) > 0.2 * len(trace)
    assert live.fallbacks == sum(ended.is_fallback for ended in simulated.ended)
    assert (live.fallbacks > 0.1 * len(trace)) == (rate_qps == 1500.0)
    assert live.outcomes[Outcome.SERVED] == len(trace)
    assert live.accuracy == pytest.approx(sum(e.accuracy or 0.0 for e in simulated.ended))


def test_a_query_whose_first_and_second_stage_are_lost_once_each_is_answered_by_the_next_device() -> None:
    catalog, profiles = make_world((*DEVICES, "cpu3"))
    known = CascadeProfile("a", "a-small", "a-large", "digest", (make_cascade_point(0.5, 0.3, 0.92),))
    profiles = {device: msgspec.structs.replace(each, cascades=(known,)) for device, each in profiles.items()}
    plan = make_plan(
        *(Placement(each, "a", "a-small", 32, 5.0, 0.5, 4400.0) for each in ("cpu0", "cpu1")),
        *(Placement(each, "a", "a-large", 8, 0.0, 0.0, 105.0, deferred_qps=1.5) for each in ("cpu2", "cpu3")),
        demand_qps={"a": 10.0, "b": 0.0},
        devices=(*DEVICES, "cpu3"),
        cascades=[make_cascade("a", "a-small", "a-large", rate_qps=10.0, deferred_frac=0.3)],
    )
    trace = replace(by_hand((1.0, "a"), families=("a", "b"), slo_s=[0.2]), confidence=np.array([0.1]))
    failures: tuple[Failure, ...] = ()
    for launch in (0, -1):  # the first batch of all, then, of what it deferred, the last one so far
        found = simulate(trace, plan, catalog, profiles, FIXED, never, conditions=Conditions(failures=failures))
        at_s, lost = found.launches[launch]
        failures += (Failure((lost.hosted.device,), at_s + 0.0005, math.inf),)
    simulated = simulate(trace, plan, catalog, profiles, FIXED, never, conditions=Conditions(failures=failures))
    live = run_live(trace, plan, catalog, profiles, FIXED, never, failures, KnownConfidence(trace))
    assert batches(live.launches) == batches(simulated.launches)
    assert [launch.hosted.variant for _, launch in live.launches] == ["a-small"] * 2 + ["a-large"] * 2
    assert [ended.is_fallback for ended in simulated.ended] == [False]
