import msgspec
import pytest
from builders import make_placement, make_plan

from proteus_cli.domain.base import checked
from proteus_cli.domain.plan import Placement, Plan
from proteus_cli.domain.stages.cascade import CascadePoint, PlannedCascade


def test_hosted_lists_every_device_also_those_that_idle() -> None:
    plan = make_plan(
        make_placement("cpu0", "a", "s"), make_placement("cpu1", "b", "s"), devices=("cpu0", "cpu1", "cpu2")
    )
    assert plan.hosted() == {"cpu0": {("a", "s")}, "cpu1": {("b", "s")}, "cpu2": frozenset()}
    assert plan.devices == ("cpu0", "cpu1", "cpu2")


def test_capacity_and_shortfall_add_up() -> None:
    plan = make_plan(
        make_placement("cpu0", "a", "s", rate_qps=30, capacity_qps=40),
        make_placement("cpu1", "a", "l", rate_qps=10, capacity_qps=15),
        demand_qps={"a": 50.0, "b": 7.0},
    )
    assert (plan.capacity_qps("a"), plan.capacity_qps("b")) == (55.0, 0.0)
    assert plan.shortfall_qps == pytest.approx(10.0 + 7.0)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 1}, "`format` is 1"),
        ({"headroom": 0.9}, "headroom"),
        ({"headroom": float("nan")}, "headroom"),
        ({"demand_qps": {"a": -1.0}}, "demand_qps"),
        ({"served_qps": {"a": float("nan")}}, "served_qps"),
        ({"unserved_qps": {"a": float("inf")}}, "unserved_qps"),
        ({"fleet": {"cpu": ("cpu9",)}}, "not in the fleet"),
        ({"demand_qps": {"b": 1.0}}, "has no demand"),
    ],
)
def test_a_plan_that_contradicts_itself_cannot_exist(change: dict[str, object], problem: str) -> None:
    plan = make_plan(make_placement("cpu0", "a", "s"))
    with pytest.raises(ValueError, match=problem):
        checked(msgspec.structs.replace(plan, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"max_batch": 0},
        {"max_batch": 10**9},
        {"max_batch": 10**20},
        {"rate_qps": -1.0},
        {"share": 1.1},
        {"share": float("nan")},
        {"capacity_qps": float("inf")},
    ],
)
def test_a_placement_out_of_range_cannot_exist(change: dict[str, object]) -> None:
    placement = make_placement("cpu0", "a", "s")
    with pytest.raises(ValueError, match=next(iter(change))):
        checked(msgspec.structs.replace(placement, **change))


def test_a_plan_survives_json() -> None:
    plan = make_plan(make_placement("cpu0", "a", "s"), make_placement("cpu1", "b", "s"))
    again = msgspec.json.decode(msgspec.json.encode(plan), type=Plan)
    assert again == plan
    assert isinstance(again.placements[0], Placement)


def test_the_variants_of_a_cascade_are_hosted() -> None:
    point = CascadePoint(0.4, 0.2, 0.94, 0.92, 0.96, sure_accuracy=0.95, unsure_accuracy=0.5, second_accuracy=0.9)
    cascade = PlannedCascade("a", "s", "l", point, rate_qps=50.0, share=1.0)
    both = make_plan(make_placement("cpu0", "a", "s"), make_placement("cpu1", "a", "l"))
    planned = msgspec.structs.replace(both, cascades=(cascade,))
    assert cascade.deferred_qps == pytest.approx(10.0)
    assert msgspec.json.decode(msgspec.json.encode(planned), type=Plan) == planned
    assert b"cascades" not in msgspec.json.encode(both)
    with pytest.raises(ValueError, match="no device hosts `l`"):
        msgspec.structs.replace(make_plan(make_placement("cpu0", "a", "s")), cascades=(cascade,))


def test_the_capacity_for_newcomers_is_without_what_second_stages_need() -> None:
    """`l` answers 20 newcomers for 60 deferred queries, or these alone; a spare may take what comes."""
    first = Placement("cpu0", "a", "s", 4, 100.0, 1.0, 150.0)
    both = Placement("cpu1", "a", "l", 4, 20.0, 0.2, 120.0, deferred_qps=60.0)
    second, spare = (
        Placement("cpu2", "a", "l", 4, 0.0, 0.0, 120.0, deferred_qps=60.0),
        Placement("cpu3", "a", "l", 4, 0.0, 0.0, 120.0),
    )
    assert [each.newcomers_qps for each in (first, both, second, spare)] == [150.0, 30.0, 0.0, 120.0]
    plan = make_plan(first, both, second, spare, demand_qps={"a": 120.0}, devices=("cpu0", "cpu1", "cpu2", "cpu3"))
    assert plan.capacity_qps("a") == 300.0
    assert plan.capacity_qps("b") == 0.0


def test_variants_that_have_one_name_now_have_what_both_had() -> None:
    """As the two versions of a variant in a plan that is resumed while one was rolled out."""
    plan = make_plan(
        make_placement("cpu0", "a", "s", rate_qps=9.0, share=0.9, capacity_qps=90.0),
        make_placement("cpu0", "a", "s@2", rate_qps=1.0, share=0.1, capacity_qps=10.0),
        make_placement("cpu1", "a", "s@2", rate_qps=5.0, share=0.5),
    )
    plain = plan.with_names(lambda key: key.variant.partition("@")[0])
    assert plain.placements == (
        make_placement("cpu0", "a", "s", rate_qps=10.0, share=1.0, capacity_qps=100.0),
        make_placement("cpu1", "a", "s", rate_qps=5.0, share=0.5),
    )
    assert plan.with_names(lambda key: key.variant) == plan
