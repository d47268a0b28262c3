"""What a lost device tries before it serves again."""

from builders import hosted, make_measured, make_placement, make_plan

from proteus_cli.control.controller import Controller
from proteus_cli.control.decision import HostedVariant
from proteus_cli.control.policies import policy_named
from proteus_cli.domain.catalog import VariantKey

LOAD_S = {"a-l": 3.0, "a-m": 2.0, "a-s": 1.0}
HOSTABLE = [make_measured("a", variant, 0.9, {1: 0.01}, load_s=load_s) for variant, load_s in LOAD_S.items()]
LARGE, MEDIUM, SMALL = (VariantKey("a", variant) for variant in LOAD_S)
HOSTED = (
    hosted(variant="a-l", latency_s={1: 0.01}, max_batch=8),
    hosted(variant="a-m", latency_s={1: 0.01}, max_batch=2),
)


def lost(*hosted: HostedVariant, broken: tuple[VariantKey, ...] = ()) -> Controller:
    """A controller whose device cpu0 hosted these, and is lost."""
    controller = Controller({"a": 1.0}, {"cpu0": 1, "cpu1": 1}, policy_named("proteus"))
    controller.adopt(make_plan(*(make_placement("cpu0", *each.key) for each in hosted)), hosted, 0.0)
    for key in broken:
        controller.engine_failed("cpu0", key)
    controller.device_lost("cpu0", ())
    return controller


def test_all_that_it_hosted_is_tried_with_full_batches_and_then_others_the_shortest_load_first() -> None:
    assert lost(*HOSTED).topology.probation("cpu0", HOSTABLE) == ({LARGE: 8, MEDIUM: 2}, [SMALL])
    assert lost(*HOSTED[:1]).topology.probation("cpu0", HOSTABLE) == ({LARGE: 8}, [SMALL, MEDIUM])
    assert lost().topology.probation("cpu0", HOSTABLE) == ({}, [SMALL, MEDIUM, LARGE])
    by_another = lost().topology.probation("cpu0", HOSTABLE, lambda measured: -measured.load_s)
    assert by_another == ({}, [LARGE, MEDIUM, SMALL])


def test_broken_engines_and_what_the_device_cannot_host_any_more_are_left_out() -> None:
    assert lost(*HOSTED, broken=(SMALL,)).topology.probation("cpu0", HOSTABLE[1:]) == ({MEDIUM: 2}, [])


def test_the_controller_knows_what_a_device_hosted_as_it_was_lost_and_what_is_broken_there() -> None:
    controller = Controller({"a": 1.0}, {"cpu0": 1, "cpu1": 1}, policy_named("proteus"))
    plan = make_plan(*(make_placement("cpu0", *each.key) for each in HOSTED), devices=("cpu0", "cpu1"))
    controller.adopt(plan, HOSTED, 0.0)
    controller.engine_failed("cpu0", LARGE)
    controller.engine_failed("cpu1", MEDIUM)
    controller.device_lost("cpu0", ())
    assert controller.topology.probation("cpu0", HOSTABLE) == ({MEDIUM: 2}, [SMALL])
    controller.engine_recovered("cpu0", LARGE)
    assert controller.topology.probation("cpu0", HOSTABLE) == ({LARGE: 8, MEDIUM: 2}, [SMALL])


def test_a_lost_device_is_needed_where_a_family_that_it_can_host_has_no_other() -> None:
    controller = Controller({"a": 1.0, "b": 1.0}, {"cpu0": 1, "cpu1": 1}, policy_named("proteus"))
    hosts = [*HOSTED[:1], hosted("cpu1", "b", "b-s", latency_s={1: 0.01})]
    controller.adopt(make_plan(*(make_placement(each.device, *each.key) for each in hosts)), hosts, 0.0)
    controller.device_lost("cpu0", ())
    assert controller.topology.is_needed(HOSTABLE)
    assert not controller.topology.is_needed([make_measured("b", "b-s", 0.9, {1: 0.01})])


def test_an_engine_that_works_on_no_other_device_is_broken_on_all() -> None:
    controller = Controller({"a": 1.0}, {"cpu0": 1, "cpu1": 1, "cpu2": 1}, policy_named("proteus"))
    hosts = [hosted(device, "a", "a-l", latency_s={1: 0.01}) for device in ("cpu0", "cpu1")]
    controller.adopt(make_plan(*(make_placement(each.device, *each.key) for each in hosts)), hosts, 0.0)
    loaded = controller.change.resident_on
    assert controller.topology.broken_with("cpu0", LARGE, loaded) == ("cpu0",)
    assert controller.topology.broken_with("cpu0", SMALL, loaded) == ("cpu0", "cpu1", "cpu2")
    assert controller.topology.broken_with("cpu0", SMALL, {"cpu1": (), "cpu2": (SMALL,)}.__getitem__) == ("cpu0",)
    controller.device_lost("cpu1", ())
    assert controller.topology.broken_with("cpu0", LARGE, loaded) == ("cpu0", "cpu1", "cpu2")
