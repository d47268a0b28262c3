import msgspec
import numpy as np
import pytest
from builders import make_measured, make_placement, make_plan, make_point, make_profile, make_sharing_cost, near

from proteus_cli.control.batching import (
    AimdBatcher,
    Batcher,
    GreedyBatcher,
    NexusBatcher,
    ProactiveBatcher,
    StaticBatcher,
)
from proteus_cli.control.decision import HostedVariant
from proteus_cli.control.policies import POLICIES, batcher_named, live_policy_named, policies_named, policy_named
from proteus_cli.control.topology.hosting import device_memory, hosted_by
from proteus_cli.domain.attainment import SloTarget
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.profile import Point, VariantProfile
from proteus_cli.domain.rules import Rules
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.errors import ArtefactError, UsageError
from proteus_cli.simulation.timing import BatchTimes


def test_a_host_has_the_mean_latencies_and_those_of_the_95th_percentile() -> None:
    measured = make_measured("a", "s", 0.8, {1: 0.01})
    measured = msgspec.structs.replace(measured, points=(Point(1, 10, 0.010, 0.011, 0.012, 0.013, 0.014, 100.0),))
    placement = make_placement("cpu0", "a", "s", rate_qps=30.0, capacity_qps=70.0, max_batch=1)
    (host,) = hosted_by(make_plan(placement), {"cpu0": make_profile("cpu0", measured)})
    assert (host.device, host.family, host.variant, host.accuracy) == ("cpu0", "a", "s", 0.8)
    assert (host.weight, host.capacity_qps, host.max_batch) == (30.0, 70.0, 1)
    assert (host.mean_latency(1), host.latency(1)) == (0.010, 0.013)


def test_a_multi_exit_model_has_its_first_answers_earlier_where_it_is_served_stage_by_stage() -> None:
    """As long as the first stage takes at its p95, and never longer than the whole. On other machines, with the way.

    Where two batches at once take twice as long as one, so does the first stage.
    """
    stage = (StagePoint(1, 0.002, 0.003), StagePoint(4, 0.004, 0.2))
    measured = msgspec.structs.replace(
        make_measured("a", "s", 0.8, {1: 0.01, 4: 0.02}), exits=(ExitProfile(points=stage), ExitProfile(points=stage))
    )
    untimed = msgspec.structs.replace(measured, exits=(ExitProfile(), ExitProfile()))

    def hosted(device: str, profiled: VariantProfile, slots: int = 1, network: Network | None = None) -> HostedVariant:
        plan = make_plan(make_placement(device, "a", "s"))
        points = tuple(make_point(each.batch, 2 * each.mean_s, 2) for each in profiled.points)
        profiled = msgspec.structs.replace(profiled, concurrent=points)
        profile = msgspec.structs.replace(make_profile(device, profiled, slots=slots), network=network)
        return hosted_by(plan, {device: profile})[0]

    here = hosted("cpu0", measured)
    assert (here.cuts, here.least_latency(1), here.least_latency(4), here.latency(1)) == (True, 0.003, 0.02, 0.01)
    there = hosted("a/cpu0", measured, network=Network(0.002, 1e6, {"a": 1000}))
    assert (there.cuts, there.least_latency(1), there.least_latency(4)) == (True, near(0.006), 0.02)
    assert (here.way_s(4), there.way_s(1), there.way_s(4)) == (0.0, near(0.003), near(0.006))
    busy = hosted("cpu0", measured, 2)
    assert (busy.cuts, busy.least_latency(1), busy.least_latency(4), busy.latency(1)) == (True, 0.006, 0.04, 0.02)
    assert [point.mean_s for point in busy.exits[1].points] == [0.004, 0.008]
    for whole in (here.whole(), hosted("cpu0", untimed)):
        assert (whole.cuts, whole.least_latency) == (False, whole.latency)


@pytest.mark.parametrize(
    ("of_family", "of_plan", "takes_s"), [({}, None, 0.007), ({"a": 0.95}, None, 0.003), ({"a": 0.95}, 0.99, 0.006)]
)
def test_the_first_exit_takes_what_the_attainment_asks_for(
    of_family: dict[str, float], of_plan: float | None, takes_s: float
) -> None:
    """That of the plan's rules, if they have any, else of the family, which is 99.5 % unless the catalog says so."""
    exits = (ExitProfile(points=(StagePoint(1, 0.002, 0.003, 0.006, 0.007),)),) * 2
    measured = msgspec.structs.replace(make_measured("a", "s", 0.8, {1: 0.01}), exits=exits)
    plan = make_plan(make_placement("cpu0", "a", "s"))
    plan = msgspec.structs.replace(plan, rules=plan.rules.with_attainment(of_plan))
    (host,) = hosted_by(plan, {"cpu0": make_profile("cpu0", measured)}, of_family)
    assert host.least_latency(1) == pytest.approx(takes_s)
    assert host.attainment == (of_plan or of_family.get("a", 0.995))


def test_devices_of_one_profile_share_no_tables_where_sharing_costs_differ() -> None:
    """In plans, and in simulations."""
    measured = [make_measured(name, f"{name}0", 0.9, {1: 0.01}) for name in "ab"]
    alike = make_profile("cpu0", *measured)
    costs = {"cpu0": 1.5, "cpu1": 2.0}
    profiles = {
        device: msgspec.structs.replace(
            alike,
            device=msgspec.structs.replace(alike.device, id=device),
            sharing=(make_sharing_cost(("a", "a0"), ("b", "b0"), ratio=ratio),),
        )
        for device, ratio in costs.items()
    }
    plan = make_plan(*(make_placement(device, name, f"{name}0") for device in costs for name in "ab"))
    hosts = [host for host in hosted_by(plan, profiles) if host.family == "a"]
    simulated = BatchTimes(profiles, None, np.random.default_rng(0))
    for host in hosts:
        takes_s = 0.01 * costs[host.device]
        assert (
            host.mean_latency(1)
            == simulated.of(host.device, host.family, host.variant, host.others)[0](1)
            == pytest.approx(takes_s)
        )


@pytest.mark.parametrize("missing", ["device", "variant", "points"])
def test_a_placement_that_was_never_profiled_is_refused(missing: str) -> None:
    measured = make_measured(
        "a", "other" if missing == "variant" else "s", 0.8, {} if missing == "points" else {1: 0.01}
    )
    profiles = {} if missing == "device" else {"cpu0": make_profile("cpu0", measured)}
    with pytest.raises(ArtefactError, match="`s` on `cpu0`, which was never profiled") as caught:
        hosted_by(make_plan(make_placement("cpu0", "a", "s")), profiles)
    assert "proteus profile --device cpu0" in caught.value.hint


def test_policies_are_found_by_name() -> None:
    assert all(policy_named(name).name == name for name in POLICIES)
    with pytest.raises(UsageError, match="No policy `greedy`") as caught:
        policy_named("greedy")
    assert "proteus, proteus-paper, clipper-ha" in caught.value.hint


def test_several_policies_are_named_at_once_or_all() -> None:
    assert [policy.name for policy in policies_named("oracle, proteus")] == ["oracle", "proteus"]
    assert policies_named("all") == tuple(POLICIES.values())


def test_a_server_runs_only_what_is_made_for_it() -> None:
    assert live_policy_named("proteus") is POLICIES["proteus"]
    with pytest.raises(UsageError, match="`clipper-ha` can only be simulated"):
        live_policy_named("clipper-ha")


def test_static_policies_never_re_plan() -> None:
    static = {name for name, policy in POLICIES.items() if policy.replanning is None}
    assert static == {"clipper-ha", "clipper-ht", "most-accurate", "least-accurate"}


@pytest.mark.parametrize(
    ("name", "batcher"),
    [
        ("proactive", ProactiveBatcher(margin_frac=0.02)),
        ("aimd", AimdBatcher()),
        ("nexus", NexusBatcher()),
        ("greedy", GreedyBatcher()),
        ("static-8", StaticBatcher(rows=8)),
    ],
)
def test_batching_rules_are_found_by_name(name: str, batcher: Batcher) -> None:
    assert batcher_named(name) == batcher


@pytest.mark.parametrize(
    "name",
    ["", "static", "static-0", "static--1", "static-x", "static-٣", f"static-{'9' * 5000}", "clever"],
    ids=lambda name: name[:12],
)
def test_a_batching_rule_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="No batching") as caught:
        batcher_named(name)
    assert "static-N" in caught.value.hint


def test_what_a_profile_knows_and_the_catalog_has_no_more_stands_nowhere_by() -> None:
    """It has no model: to load it failed again and again."""
    variants = (make_measured("a", name, 0.8, {1: 0.01}, memory_bytes=10) for name in ("kept", "gone"))
    profile = make_profile("cpu0", *variants)
    found = device_memory({"cpu0": 100}, {"cpu0": profile}, {"a": SloTarget(0.1)}, Rules(), {VariantKey("a", "kept")})
    assert set(found["cpu0"].loadable) == {VariantKey("a", "kept")}
    assert device_memory({"cpu0": 100}, {"cpu0": profile}, {"a": SloTarget(0.1)}, Rules(), set()) == {}
