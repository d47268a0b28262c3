import msgspec
import pytest
from builders import make_measured, make_profile
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.catalog import is_name
from proteus_cli.domain.cluster import MAX_HOSTS
from proteus_cli.domain.fleet import (
    MAX_DEVICES,
    as_device,
    base_name,
    fleet_of,
    hypothetical_fleet,
    of_type,
    origins,
    parse_fleet,
)
from proteus_cli.domain.profile import Profile
from proteus_cli.errors import UsageError

FAST = make_measured("a", "s", 0.8, {1: 0.01})
SLOW = make_measured("a", "s", 0.8, {1: 0.02})
NAMES = st.text("abc019._-", min_size=1, max_size=6)


def shared(device: str, measured_on: str) -> Profile:
    return msgspec.structs.replace(make_profile(device, FAST), measured_on=measured_on)


CPU0, CPU1 = shared("cpu0", "cpu0"), shared("cpu1", "cpu0")
V100 = make_profile("v100", SLOW, device_type="v100")
PROFILES = {"cpu0": CPU0, "cpu1": CPU1, "v100": V100}


@given(st.dictionaries(NAMES, st.integers(1, 1000), min_size=1, max_size=5))
def test_a_fleet_is_counts_by_name(counts: dict[str, int]) -> None:
    assert parse_fleet(",".join(f" {name} : {count} " for name, count in counts.items())) == {"": counts}


@given(
    st.dictionaries(
        st.just("") | NAMES.filter(is_name), st.dictionaries(NAMES, st.integers(1, 10), min_size=1, max_size=3),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_a_fleet_may_have_hosts_and_devices_of_none(fleet: dict[str, dict[str, int]]) -> None:
    parts = [
        (f" {host} = " if host else "") + ",".join(f"{name}:{count}" for name, count in counts.items())
        for host, counts in fleet.items()
    ]
    assert parse_fleet(";".join(parts)) == fleet


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "`` in the fleet is no type with a count"),
        ("cpu", "`cpu` in the fleet is no type with a count"),
        (":5", "`:5` in the fleet"),
        ("cpu:", "`` is no count of `cpu` devices"),
        ("cpu:0", "`0` is no count"),
        ("cpu:-1", "`-1` is no count"),
        ("cpu:1.5", "`1.5` is no count"),
        ("cpu:1_0", "`1_0` is no count"),
        ("cpu:many", "`many` is no count"),
        ("cpu:٣", "`٣` is no count"),
        ("cpu:" + "9" * 5000, "is no count"),
        ("cpu:5,", "`` in the fleet"),
        ("cpu:5,v100:1,cpu:6", "names `cpu` twice"),
        (f"cpu:{MAX_DEVICES},v100:1", "more than 100,000 devices"),
        ("a=cpu:4;", "`` in the fleet"),
        ("a=", "`` in the fleet"),
        ("a=cpu", "`cpu` in the fleet"),
        ("=cpu:4", "`` in the fleet is no name of a host"),
        ("a/b=cpu:4", "`a/b` in the fleet is no name of a host"),
        ("-a=cpu:4", "`-a` in the fleet is no name of a host"),
        ("a=cpu:4,b=cpu:4", "`a=cpu:4,b` in the fleet is no name of a host"),
        ("a=cpu:4;b=cpu:1;a=v100:1", "names the host `a` twice"),
        ("cpu:4;v100:1", "names devices of no host twice"),
        ("a=cpu:4,cpu:1", "Host `a` of the fleet names `cpu` twice"),
        (f"a=cpu:{MAX_DEVICES};b=cpu:1", "more than 100,000 devices"),
        (";".join(f"h{number}=cpu:1" for number in range(MAX_HOSTS + 1)), "more than 1,000 hosts"),
    ],
)
def test_a_fleet_that_makes_no_sense_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fleet(text)
    assert problem in caught.value.message
    assert caught.value.hint


def test_the_largest_fleet_is_allowed() -> None:
    assert parse_fleet(f"cpu:{MAX_DEVICES}") == {"": {"cpu": MAX_DEVICES}}


def test_made_up_devices_are_of_the_type_and_keep_whose_measurements_they_are() -> None:
    fleet = hypothetical_fleet({"v100": 2, "cpu": 1}, PROFILES)
    assert list(fleet) == ["v100-0", "v100-1", "cpu-0"]
    assert [(p.device.id, p.device.type, p.measured_on) for p in fleet.values()] == [
        ("v100-0", "v100", "v100"),
        ("v100-1", "v100", "v100"),
        ("cpu-0", "cpu", "cpu0"),
    ]


def test_a_fleet_may_be_like_a_device() -> None:
    differing = {"cpu0": CPU0, "cpu1": make_profile("cpu1", SLOW)}
    fleet = hypothetical_fleet({"cpu1": 2}, differing)
    assert [(p.device.id, p.device.type, p.variants) for p in fleet.values()] == [
        ("cpu1-0", "cpu", (SLOW,)),
        ("cpu1-1", "cpu", (SLOW,)),
    ]


def test_all_devices_of_a_large_fleet_share_one_tuple_of_variants() -> None:
    fleet = hypothetical_fleet({"cpu": 10_000}, PROFILES)
    assert len(fleet) == 10_000
    assert {id(profile.variants) for profile in fleet.values()} == {id(CPU0.variants)}


def test_a_name_that_is_not_profiled_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="No profile of any `tpu`") as caught:
        hypothetical_fleet({"cpu": 1, "tpu": 1}, PROFILES)
    assert caught.value.hint.endswith("cpu, v100")


def test_a_type_whose_devices_differ_must_be_named_by_device() -> None:
    with pytest.raises(UsageError, match="devices of type `cpu` have different profiles") as caught:
        hypothetical_fleet({"cpu": 2}, {"cpu0": CPU0, "cpu1": make_profile("cpu1", SLOW)})
    assert "cpu0, cpu1" in caught.value.hint
    assert of_type("tpu", PROFILES) is None


def test_devices_on_hosts_are_of_the_same_types_and_have_the_same_variants() -> None:
    fleet = fleet_of(PROFILES, "cpu:1;a=cpu:2,v100:1;b=v100:1")
    assert [(p.device.id, p.device.host, p.device.type) for p in fleet.values()] == [
        ("cpu-0", "", "cpu"),
        ("a/cpu-0", "a", "cpu"),
        ("a/cpu-1", "a", "cpu"),
        ("a/v100-0", "a", "v100"),
        ("b/v100-0", "b", "v100"),
    ]
    assert list(fleet) == [profile.device.id for profile in fleet.values()]
    assert {id(profile.variants) for profile in fleet.values()} == {id(CPU0.variants), id(V100.variants)}


def test_a_device_on_a_host_is_like_the_one_of_that_name_that_the_host_has() -> None:
    """Else like that of this machine; and it may be like one of another host."""
    profiles = {"cpu0": CPU0, "a/cpu0": make_profile("a/cpu0", SLOW)}
    fleet = fleet_of(profiles, "a=cpu0:1;b=cpu0:1,a/cpu0:1")
    assert {device: p.variants for device, p in fleet.items()} == {
        "a/cpu0-0": (SLOW,), "b/cpu0-0": (FAST,), "b/a/cpu0-0": (SLOW,),
    }  # fmt: skip
    assert [p.device.host for p in fleet.values()] == ["a", "b", "b"]


def test_two_names_of_one_device_are_refused() -> None:
    with pytest.raises(UsageError, match="The fleet has `a/cpu0-0` twice"):
        fleet_of({"a/cpu0": make_profile("a/cpu0", FAST)}, "a/cpu0:2;a=cpu0:1")


def test_without_a_fleet_there_are_the_profiled_devices() -> None:
    assert fleet_of(PROFILES, None) is PROFILES


@pytest.mark.parametrize(
    ("device", "likely"),
    [
        ("cpu0", ("cpu0",)),
        ("a/cpu0", ("a/cpu0",)),
        ("v100-3", ("v100-3", "v100")),
        ("a/v100-3", ("a/v100-3", "a/v100", "v100")),
        ("b/a/cpu0-3", ("b/a/cpu0-3", "b/a/cpu0", "a/cpu0")),
    ],
)
def test_a_device_has_its_own_profile_or_that_of_what_it_is_like(device: str, likely: tuple[str, ...]) -> None:
    assert origins(device) == likely


def test_a_device_as_itself_is_the_same_profile() -> None:
    assert as_device(CPU0, "cpu0") is CPU0


@given(NAMES, st.integers(0, 10**6))
def test_a_made_up_device_is_named_after_what_it_is_like(name: str, number: int) -> None:
    assert base_name(f"{name}-{number}") == name


@pytest.mark.parametrize("device", ["cpu0", "v100", "a100-40g", "-1", "cpu-"])
def test_other_ids_are_named_after_themselves(device: str) -> None:
    assert base_name(device) == device
