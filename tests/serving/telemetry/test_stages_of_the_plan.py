"""What status and page say of a plan's cascades and exits, and what its placements are planned to answer."""

from dataclasses import replace

from builders import controller_hosting, hosted, make_cascade, make_placement, make_plan, make_table

from proteus_cli.control.controller import Controller
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.serving.telemetry.state import ExitsStatus
from proteus_cli.serving.telemetry.telemetry import cascades_of, exits_of, kept_fracs

POLICY = policy_named("proteus")


def cascading() -> Controller:
    """30 of 40 qps of `a-s`, on two devices, go by a cascade that defers half of them to `a-l`."""
    variants = ("c0", "a-s", 10.0), ("c1", "a-s", 30.0), ("c2", "a-l", 5.0)
    hosts = tuple(
        hosted(device, variant=variant, weight=qps, latency_s={1: 0.01}, accuracy=0.7 if variant == "a-s" else 0.9)
        for device, variant, qps in variants
    )
    placements = [make_placement(host.device, "a", host.variant, rate_qps=host.weight) for host in hosts]
    plan = make_plan(*placements, cascades=[make_cascade("a", "a-s", "a-l", rate_qps=30.0)])
    controller = Controller({"a": 0.1}, dict.fromkeys(("c0", "c1", "c2"), 1), POLICY)
    controller.adopt(plan, hosts, 0.0)
    return controller


def test_what_a_first_stage_defers_it_is_not_planned_to_answer() -> None:
    assert kept_fracs(cascading()) == {VariantKey("a", "a-s"): 1 - 15 / 40, VariantKey("a", "a-l"): 1.0}


def test_a_cascade_says_what_is_planned_to_be_deferred() -> None:
    (told,) = cascades_of(cascading(), "a")
    assert (told.first, told.second, told.rate_qps, told.planned, told.deferred_qps) == ("a-s", "a-l", 30.0, 0.5, 15.0)
    assert (told.observed, told.rows) == (None, 0)
    assert cascades_of(cascading(), "b") == []


def test_a_multi_exit_model_is_told_once_with_the_shares_of_its_exits() -> None:
    stage = (StagePoint(1, 0.01, 0.01),)
    exits = tuple(ExitProfile(share, points=stage) for share in (0.75, 0.25))
    host = replace(hosted("c0", variant="a-s", latency_s={1: 0.02}), exits=exits, first_exit=make_table({1: 0.01}))
    controller = controller_hosting(host, replace(host, device="c1"), policy=POLICY, slots={"c0": 1, "c1": 1})
    assert exits_of(controller, "a") == [ExitsStatus("a-s", [0.75, 0.25], cuts=True)]
    assert exits_of(cascading(), "a") == []
