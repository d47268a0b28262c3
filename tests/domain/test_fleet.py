import msgspec
import pytest
from builders import make_measured, make_profile
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.fleet import (
    MAX_DEVICES,
    as_device,
    base_name,
    hypothetical_fleet,
    of_type,
    parse_fleet,
    profile_for,
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
    assert parse_fleet(",".join(f" {name} : {count} " for name, count in counts.items())) == counts


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
    ],
)
def test_a_fleet_that_makes_no_sense_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fleet(text)
    assert problem in caught.value.message
    assert caught.value.hint


def test_the_largest_fleet_is_allowed() -> None:
    assert parse_fleet(f"cpu:{MAX_DEVICES}") == {"cpu": MAX_DEVICES}


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


def test_a_device_as_itself_is_the_same_profile() -> None:
    assert as_device(CPU0, "cpu0") is CPU0


@given(NAMES, st.integers(0, 10**6))
def test_a_made_up_device_is_named_after_what_it_is_like(name: str, number: int) -> None:
    assert base_name(f"{name}-{number}") == name


@pytest.mark.parametrize("device", ["cpu0", "v100", "a100-40g", "-1", "cpu-"])
def test_other_ids_are_named_after_themselves(device: str) -> None:
    assert base_name(device) == device


def test_a_profile_stands_in_for_itself_and_its_namesakes_of_its_type() -> None:
    assert profile_for("cpu1", "cpu", PROFILES) is CPU1
    assert profile_for("cpu1-7", "cpu", PROFILES) is CPU1
    assert profile_for("v100-7", "v100", PROFILES) is V100
    assert profile_for("v100-7", "cpu", PROFILES) is None
    assert profile_for("cpu-7", "cpu", PROFILES) is None


def test_a_made_up_id_that_is_also_the_id_of_another_type_is_told_apart_by_its_type() -> None:
    other = make_profile("v100-0", FAST, device_type="v100-0")
    profiles = {**PROFILES, "v100-0": other}
    assert profile_for("v100-0", "v100", profiles) is V100
    assert profile_for("v100-0", "v100-0", profiles) is other
