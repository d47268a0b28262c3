"""What the CPUs of a host load at once fits the memory that is free there."""

from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.topology.room import KEPT_FREE_FRAC, without_room
from proteus_cli.domain.device import host_of

GIB = 2**30
DEVICES = ("cpu0", "cpu1", "a/cpu0", "a/cpu1", "a/cpu2", "b/cpu0")


def test_all_find_room_where_there_is_enough() -> None:
    assert without_room({"a/cpu0": GIB, "a/cpu1": GIB}, {"a": 3 * GIB}) == set()


def test_those_that_need_least_find_room_first() -> None:
    needed = {"a/cpu0": 3 * GIB, "a/cpu1": GIB, "a/cpu2": 2 * GIB}
    assert without_room(needed, {"a": 4 * GIB}) == {"a/cpu0"}
    assert without_room(needed, {"a": 2 * GIB}) == {"a/cpu0", "a/cpu2"}


def test_each_host_has_memory_of_its_own_and_where_it_is_unknown_all_find_room() -> None:
    needed = {"cpu0": GIB, "a/cpu0": GIB, "b/cpu0": GIB}
    assert without_room(needed, {"": 2 * GIB, "a": 0}) == {"a/cpu0"}


def test_what_needs_no_load_needs_no_room() -> None:
    assert without_room({"a/cpu0": 0, "a/cpu1": 1}, {"a": 0}) == {"a/cpu1"}


@given(
    needed=st.dictionaries(st.sampled_from(DEVICES), st.integers(0, 100)),
    free=st.dictionaries(st.sampled_from(["", "a", "b"]), st.integers(0, 300)),
)
def test_loads_never_take_more_than_is_free_and_one_more_would(needed: dict[str, int], free: dict[str, int]) -> None:
    without = without_room(needed, free)
    for host, free_bytes in free.items():
        room = free_bytes * (1 - KEPT_FREE_FRAC)
        taken = sum(size for device, size in needed.items() if host_of(device) == host and device not in without)
        assert taken <= room
        assert all(taken + needed[device] > room for device in without if host_of(device) == host)
    assert all(host_of(device) in free for device in without)
