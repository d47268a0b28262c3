"""How slow a free host may be to help a family that prefers latency at once: simulated, beside a faster one."""

from functools import cache

import msgspec
import numpy as np
import pytest
from parity_world import make_world

from proteus_cli.control.policies import policy_named
from proteus_cli.control.topology import hosting
from proteus_cli.domain.catalog import FamilyPolicy
from proteus_cli.domain.profile import Profile
from proteus_cli.planning.planner import Planner
from proteus_cli.replay.synthesis import Poisson, make_trace
from proteus_cli.simulation.run import simulate

STATISTICS = ("mean_s", "p50_s", "p90_s", "p95_s", "p99_s")


def _slower(profile: Profile, times: float) -> Profile:
    """A device of another type, whose batches take so many times as long; of family a alone."""
    variants = tuple(
        msgspec.structs.replace(
            measured,
            points=tuple(
                msgspec.structs.replace(
                    point, qps=point.qps / times, **{name: times * getattr(point, name) for name in STATISTICS}
                )
                for point in measured.points
            ),
        )
        for measured in profile.variants
        if measured.family == "a"
    )
    device = msgspec.structs.replace(profile.device, type=f"{times:g} times slower")
    return msgspec.structs.replace(profile, variants=variants, device=device)


@cache
def _latencies_ms(times: float, rate_qps: int, *, is_alike: bool) -> tuple[float, float]:
    """Mean and p95 with one fast device and two slower ones, which are of one rank or not. All are answered."""
    catalog, profiles = make_world(("cpu0", "cpu1", "cpu2"))
    family = msgspec.structs.replace(catalog.families[0], policy=FamilyPolicy("latency"), min_accuracy=0.85)
    catalog = msgspec.structs.replace(catalog, families=(family,))
    profiles = {device: _slower(each, 1 if device == "cpu0" else times) for device, each in profiles.items()}
    rng = np.random.default_rng(3)
    trace = make_trace("poisson", Poisson(), rate_qps=rate_qps, duration_s=12, shares={"a": 1.0}, rng=rng)
    policy = policy_named("proteus")
    planner = Planner(catalog, profiles, policy, headroom=1.2, inputs={}, spares=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hosting, "ALIKE", {"latency": np.inf if is_alike else 1.0})
        simulated = simulate(trace, planner(trace.demand(0.0, 4.0)), catalog, profiles, policy, planner)
    latencies_ms = [1000 * each.latency_s for each in simulated.ended if each.latency_s is not None]
    assert len(latencies_ms) == len(trace)
    return float(np.mean(latencies_ms)), float(np.percentile(latencies_ms, 95))


@pytest.mark.parametrize("rate_qps", [300, 450])
@pytest.mark.parametrize("times", [1.3, 2.0, 3.0])
def test_hosts_up_to_three_times_slower_bring_the_mean_down_as_they_help_at_once(times: float, rate_qps: int) -> None:
    assert times <= hosting.ALIKE["latency"]
    alike, apart = (_latencies_ms(times, rate_qps, is_alike=is_alike)[0] for is_alike in (True, False))
    assert alike < 0.97 * apart


@pytest.mark.parametrize("rate_qps", [300, 450])
@pytest.mark.parametrize("times", [6.0, 10.0])
def test_slower_ones_do_better_to_wait(times: float, rate_qps: int) -> None:
    """They raise the p95, and the mean where it is low."""
    assert times > hosting.ALIKE["latency"]
    alike, apart = (_latencies_ms(times, rate_qps, is_alike=is_alike) for is_alike in (True, False))
    assert apart[1] < 0.99 * alike[1]
    if rate_qps == 300:
        assert apart[0] < 0.9 * alike[0]
