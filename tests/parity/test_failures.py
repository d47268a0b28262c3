"""Devices and hosts that fail: the live code gives them up and takes them back as the simulator does."""

from collections import Counter

import pytest
from parity_world import arrivals, make_world
from virtual_time import run_live

from proteus_cli.control.decision import Launch
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.request import Outcome
from proteus_cli.planning.planner import Planner
from proteus_cli.simulation.conditions import Conditions, Failure
from proteus_cli.simulation.run import simulate

DEVICES = ("h/cpu0", "h/cpu1", "g/cpu0", "g/cpu1", "cpu0")
H, G = DEVICES[:2], DEVICES[2:4]

FAILURES = {
    "a host is cut off": (Failure(H, 4.013, 7.011, "h"),),
    "a host flaps": tuple(Failure(H, at_s, at_s + 0.003, "h") for at_s in (3.013, 4.117, 7.219)),
    "both hosts, and then there is one device": (Failure(H, 4.013, 6.011, "h"), Failure(G, 5.017, 8.019, "g")),
    "a device ends, and its host later": (Failure((H[0],), 3.013, 3.013), Failure(H, 3.517, 4.011, "h")),
    "a device is away": (Failure((H[0],), 3.013, 6.011),),
}


def _batch(launch: Launch) -> tuple[str, str, tuple[int, ...]]:
    return launch.hosted.device, launch.hosted.variant, tuple(request.id for request in launch.requests)


def _result(outcome: Outcome) -> str:
    """What hangs until its deadline is late as told by the server; the simulator drops it when it waits again."""
    return "too late" if outcome in {Outcome.LATE, Outcome.DROPPED} else outcome.value


@pytest.mark.parametrize("failures", FAILURES.values(), ids=FAILURES)
def test_live_code_and_simulator_make_the_same_batches_around_failures(failures: tuple[Failure, ...]) -> None:
    """The same batches at the same moments, before, during and after; the same plans for the same reasons."""
    catalog, profiles = make_world(DEVICES)
    policy, trace = policy_named("proteus"), arrivals("poisson")
    planner = Planner(catalog, profiles, policy, headroom=1.2, inputs={})
    plan = planner(trace.demand(0.0, 4.0))

    simulated = simulate(trace, plan, catalog, profiles, policy, planner, conditions=Conditions(failures=failures))
    live = run_live(trace, plan, catalog, profiles, policy, planner, failures)

    assert simulated.losses
    assert all(loss.back_s is not None for loss in simulated.losses)
    assert live.changes == [(change.reason, change.swaps) for change in simulated.changes]
    assert [_batch(launch) for _, launch in live.launches] == [_batch(launch) for _, launch in simulated.launches]
    assert [at_s for at_s, _ in live.launches] == pytest.approx([at_s for at_s, _ in simulated.launches], abs=1e-6)
    results = Counter(_result(ended.outcome) for ended in simulated.ended)
    assert sum((Counter({_result(each): count}) for each, count in live.outcomes.items()), Counter()) == results
