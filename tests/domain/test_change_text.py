"""What a change of plan does to the devices, as people read it."""

from collections.abc import Mapping

from builders import make_placement, make_plan
from msgspec.structs import replace

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.plan import Plan
from proteus_cli.domain.plan_changes import MAX_PARTS, gain_text, hosting_text

LARGE, SMALL = VariantKey("a", "a-l"), VariantKey("a", "a-s")


def plan(**hosts: str) -> Plan:
    """A plan whose devices host variants of `a`, separated by spaces."""
    placements = (
        make_placement(device, "a", variant) for device, variants in hosts.items() for variant in variants.split()
    )
    return make_plan(*placements, demand_qps={"a": 20.0}, devices=tuple(hosts))


def text_of(before: Plan, after: Plan, load_s: Mapping[tuple[str, VariantKey], float]) -> str:
    """The text where each variant has a name of its own."""
    return hosting_text(before, after, load_s, {p.key: p.variant for p in (*before.placements, *after.placements)})


def test_a_device_has_what_it_hosted_what_it_hosts_and_how_long_the_load_took() -> None:
    before, after = plan(cpu0="a-l", cpu1="a-l"), plan(cpu0="a-l", cpu1="a-s")
    assert text_of(before, after, {("cpu1", SMALL): 0.08}) == "cpu1: a-l → a-s (loaded in 80 ms)"
    assert text_of(before, after, {("cpu1", SMALL): 2.5}) == "cpu1: a-l → a-s (loaded in 2.5 s)"
    assert text_of(before, after, {}) == "cpu1: a-l → a-s (was warm)"


def test_devices_may_host_several_variants_or_none() -> None:
    before, after = plan(cpu0="a-l", cpu1="", cpu2="a-l"), plan(cpu0="a-l a-s", cpu1="a-l", cpu2="")
    loads = {("cpu0", SMALL): 0.02, ("cpu1", LARGE): 0.3}
    assert text_of(before, after, loads) == (
        "cpu0: a-l → a-l, a-s (loaded in 20 ms); cpu1: nothing → a-l (loaded in 300 ms); cpu2: a-l → nothing"
    )


def test_a_device_that_the_fleet_no_longer_has_hosts_nothing() -> None:
    assert text_of(plan(cpu0="a-l", cpu1="a-l"), plan(cpu0="a-l"), {}) == "cpu1: a-l → nothing"


def test_devices_that_change_alike_share_a_part_with_the_longest_of_their_loads() -> None:
    names = [f"cpu{number}" for number in range(5)]
    before = plan(**dict.fromkeys(names, "a-l"))
    two, five = (
        plan(**{**dict.fromkeys(names, "a-l"), "cpu0": "a-s", "cpu1": "a-s"}),
        plan(**dict.fromkeys(names, "a-s")),
    )
    loads = {(name, SMALL): 0.1 * number for number, name in enumerate(names, start=1)}
    assert text_of(before, two, loads) == "cpu0, cpu1: a-l → a-s (loaded in 200 ms)"
    assert text_of(before, five, loads) == "5 devices: a-l → a-s (loaded in 500 ms)"


def test_a_host_of_which_all_devices_change_alike_is_named() -> None:
    names = [f"{host}/gpu{number}" for host in "ab" for number in range(8)]
    before = plan(**dict.fromkeys([*names, "c/cpu0"], "a-l"))
    lost, mixed = plan(**dict.fromkeys(names[:8], "a-l")), plan(**dict.fromkeys([*names[:8], *names[9:]], "a-l"))
    assert text_of(before, lost, {}) == "host b, c/cpu0: a-l → nothing"
    assert text_of(before, mixed, {}) == "b/gpu0, c/cpu0: a-l → nothing"


def test_the_text_is_bounded_and_counts_the_rest() -> None:
    names = [f"cpu{number}" for number in range(50)]
    before = plan(**dict.fromkeys(names, ""))
    after = plan(**{name: f"v{name}" for name in names})
    text = text_of(before, after, {})
    assert text.count(";") == MAX_PARTS
    assert text.endswith(f"; {50 - MAX_PARTS} more devices")


def test_a_change_of_shares_only_says_so() -> None:
    assert text_of(plan(cpu0="a-l"), plan(cpu0="a-l"), {}) == "the same variants"


def test_variants_have_their_labels() -> None:
    labels = {LARGE: "a/large", SMALL: "a/small"}
    assert hosting_text(plan(cpu0="a-l"), plan(cpu0="a-s"), {}, labels) == "cpu0: a/large → a/small (was warm)"


def test_a_gain_is_the_accuracy_that_each_plan_expects_of_its_demand() -> None:
    before, after = (
        replace(plan(cpu0=variant), effective_accuracy=accuracy, demand_qps={"a": qps})
        for variant, accuracy, qps in (("a-s", 0.9, 650.0), ("a-l", 0.95, 700.0))
    )
    assert gain_text(before, after) == "accuracy 90.00 % → 95.00 % at 650 → 700 qps"
    assert gain_text(after, after) == "accuracy 95.00 % → 95.00 % at 700 qps"
