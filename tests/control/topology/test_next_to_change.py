"""From what devices host to what a plan wants: who may leave its family, who waits, and who goes where all wait."""

from collections.abc import Mapping

from builders import hosted
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.control.decision import HostedVariant, Load, keys
from proteus_cli.control.topology import plan_change
from proteus_cli.control.topology.plan_change import ChangingDevice

LOADING = Load("any", ())


def next_to_change(
    devices: Mapping[str, ChangingDevice], demand_qps: Mapping[str, float], max_unavailable_frac: float = 1.0
) -> list[str]:
    return plan_change.next_to_change(devices, demand_qps, max_unavailable_frac)


def host(family: str, capacity_qps: float = 100.0, variant: str = "s") -> HostedVariant:
    return hosted("any", family, f"{family}-{variant}", latency_s={1: 0.01}, capacity_qps=capacity_qps)


def on_the_way(now: HostedVariant | None, wanted: HostedVariant | None, *, is_loading: bool = False) -> ChangingDevice:
    return ChangingDevice(
        () if now is None else (now,), () if wanted is None else (wanted,), LOADING if is_loading else None
    )


def stays(what: HostedVariant) -> ChangingDevice:
    return ChangingDevice((what,), (what,))


def test_a_device_that_hosts_nothing_starts_at_once() -> None:
    assert next_to_change({"d0": on_the_way(None, host("a"))}, {"a": 1000.0}) == ["d0"]


def test_a_device_that_hosts_all_it_should_loads_nothing() -> None:
    """Also where it should have less, or nothing, or is loading already."""
    both = ChangingDevice((host("a"), host("b")), (host("b"),))
    devices = {
        "d0": stays(host("a")),
        "d1": both,
        "d2": on_the_way(host("a"), None),
        "d3": on_the_way(host("a"), host("b"), is_loading=True),
    }
    assert next_to_change(devices, {"a": 1.0, "b": 1.0}) == []


def test_a_device_leaves_only_where_the_others_carry_its_demand() -> None:
    """Two of 100 qps serve `a`. Of 100 qps one may go to `b`; of 101 none may, and as `b` waits for nobody else, the
    deadlock lets one go.
    """
    devices = {"d0": on_the_way(host("a"), host("b")), "d1": stays(host("a")), "d2": stays(host("b"))}
    assert next_to_change(devices, {"a": 100.0, "b": 150.0}) == ["d0"]
    devices["d3"] = on_the_way(None, host("b"), is_loading=True)
    assert next_to_change(devices, {"a": 100.0, "b": 150.0}) == ["d0"]
    assert next_to_change(devices, {"a": 101.0, "b": 150.0}) == []


def test_capacity_that_one_device_takes_away_is_missing_for_the_next() -> None:
    """Three of 100 qps for 150: one may leave, which leaves 200; without another it would be 100."""
    devices = {f"d{n}": on_the_way(host("a"), host("b")) for n in range(3)}
    assert next_to_change(devices, {"a": 150.0, "b": 10.0}) == ["d0"]
    assert next_to_change(devices, {"a": 100.0, "b": 10.0}) == ["d0", "d1"]
    assert next_to_change(devices, {"a": 0.0, "b": 10.0}) == ["d0", "d1", "d2"]


def test_no_more_of_a_family_is_unavailable_at_once_than_allowed() -> None:
    """Four of 100 qps, and nothing is asked for; one always may, or nothing would ever change."""
    devices = {f"d{n}": on_the_way(host("a"), host("b")) for n in range(4)}
    assert next_to_change(devices, {"a": 0.0}, 0.5) == ["d0", "d1"]
    assert next_to_change(devices, {"a": 0.0}, 0.3) == ["d0"]
    assert next_to_change(devices, {"a": 0.0}, 0.0) == ["d0"]
    devices["d0"].load = LOADING
    assert next_to_change(devices, {"a": 0.0}, 0.5) == ["d1"]
    devices["d1"].load = LOADING
    assert next_to_change(devices, {"a": 0.0}, 0.5) == []


def test_a_device_that_loads_carries_nothing() -> None:
    """d1 will serve `a` again; until then d0 is all that `a` has."""
    devices = {
        "d0": on_the_way(host("a"), host("b")),
        "d1": on_the_way(host("b"), host("a"), is_loading=True),
        "d2": stays(host("b")),
    }
    assert next_to_change(devices, {"a": 50.0, "b": 50.0}) == []
    devices["d1"] = stays(host("a"))
    assert next_to_change(devices, {"a": 50.0, "b": 50.0}) == ["d0"]


def test_devices_go_first_whose_family_has_the_least_of_what_it_needs() -> None:
    """`b` has 50 of 100 qps, `c` 20 of 100: of `a`'s two devices, of which one may go, that for `c` goes first."""
    devices = {
        "d0": on_the_way(host("a"), host("b")),
        "d1": on_the_way(host("a"), host("c")),
        "d2": stays(host("a")),
        "d3": stays(host("b", 50.0)),
        "d4": stays(host("c", 20.0)),
    }
    assert next_to_change(devices, {"a": 150.0, "b": 100.0, "c": 100.0}) == ["d1"]
    assert next_to_change(devices, {"a": 150.0, "b": 300.0, "c": 100.0}) == ["d0"]


def test_where_all_wait_for_each_other_the_one_that_is_missed_least_goes() -> None:
    """Each device is the only one of its family. Without d0 `a` has nothing of its 90 qps; without d1 `b` has 30 of 40,
    from d2.
    """
    devices = {
        "d0": on_the_way(host("a"), host("b")),
        "d1": on_the_way(host("b"), host("a")),
        "d2": stays(host("b", 30.0)),
    }
    assert next_to_change(devices, {"a": 90.0, "b": 40.0}) == ["d1"]


def test_no_deadlock_is_broken_while_a_device_still_loads() -> None:
    """What it loads may be what the others wait for."""
    devices = {
        "d0": on_the_way(host("a"), host("b")),
        "d1": on_the_way(host("b"), host("a")),
        "d2": on_the_way(None, host("b"), is_loading=True),
    }
    assert next_to_change(devices, {"a": 90.0, "b": 40.0}) == []


def test_another_variant_of_the_family_is_a_load_too() -> None:
    devices = {"d0": on_the_way(host("a"), host("a", variant="l")), "d1": stays(host("a"))}
    assert next_to_change(devices, {"a": 100.0}) == ["d0"]
    assert next_to_change(devices | {"d2": ChangingDevice(load=LOADING)}, {"a": 101.0}) == []


def test_the_more_is_missing_the_more_may_be_on_their_way() -> None:
    """Four of 100 qps, each to be replaced by a faster one. Of 800 qps half is missing, so half of the four may go; of
    500 a fifth is missing, and one of four is more than that: all wait for each other, and so one goes.
    """
    devices = {f"d{n}": on_the_way(host("a"), host("a", 200.0, "l")) for n in range(4)}
    assert next_to_change(devices, {"a": 800.0}) == ["d0", "d1"]
    assert next_to_change(devices, {"a": 500.0}) == ["d0"]
    devices["d0"].load = LOADING
    assert next_to_change(devices, {"a": 800.0}) == ["d1"]
    assert next_to_change(devices, {"a": 500.0}) == []


def test_a_device_of_several_variants_is_missed_by_the_worst_off_of_its_families() -> None:
    """Others carry all of `a`, but nothing of `b`."""
    devices = {
        "d0": ChangingDevice((host("a"), host("b")), (host("c"),)),
        "d1": stays(host("a")),
        "d2": ChangingDevice(load=LOADING),
    }
    assert next_to_change(devices, {"a": 100.0, "b": 1.0, "c": 1.0}) == []
    assert next_to_change(devices, {"a": 100.0, "b": 0.0, "c": 1.0}) == ["d0"]


def standing_by(now: HostedVariant | None, wanted: HostedVariant) -> ChangingDevice:
    return ChangingDevice(() if now is None else (now,), (wanted,), standbys=keys((wanted,)))


def test_what_stands_by_is_activated_before_anything_loads() -> None:
    """Also where the family has less than it is asked for, as it gains at once."""
    devices = {
        "d0": on_the_way(None, host("b")),
        "d1": standing_by(host("a"), host("a", 200.0, "l")),
        "d2": standing_by(None, host("b")),
    }
    assert next_to_change(devices, {"a": 300.0, "b": 300.0}) == ["d2", "d1"]
    assert not devices["d1"].needs_load
    assert devices["d0"].needs_load
    devices |= {"d1": stays(host("a", 200.0, "l")), "d2": stays(host("b"))}
    assert next_to_change(devices, {"a": 300.0, "b": 300.0}) == ["d0"]


def test_a_standby_of_another_family_waits_until_its_device_can_be_missed() -> None:
    """d1 will serve `a`; before that, d0 is all that `a` has."""
    devices = {"d0": standing_by(host("a"), host("b")), "d1": on_the_way(None, host("a"), is_loading=True)}
    assert next_to_change(devices, {"a": 50.0, "b": 50.0}) == []
    assert devices["d0"].hosted[0].family == "a"
    devices["d1"] = stays(host("a"))
    assert next_to_change(devices, {"a": 50.0, "b": 50.0}) == ["d0"]


def test_two_that_exchange_their_families_by_standbys_do_so_one_after_the_other() -> None:
    devices = {"d0": standing_by(host("a"), host("b")), "d1": standing_by(host("b"), host("a"))}
    (first,) = next_to_change(devices, {"a": 50.0, "b": 50.0})
    devices[first] = stays(devices[first].hosts_wanted[0])
    assert next_to_change(devices, {"a": 50.0, "b": 50.0}) == [{"d0": "d1", "d1": "d0"}[first]]


def test_where_all_wait_a_standby_is_not_activated_by_a_device_that_is_missed_more_than_one_that_loads() -> None:
    """Without d0 `a` has nothing; while d1 loads `a`, `b` has 30 of 40."""
    devices = {
        "d0": standing_by(host("a"), host("b")),
        "d1": on_the_way(host("b"), host("a")),
        "d2": stays(host("b", 30.0)),
    }
    assert next_to_change(devices, {"a": 90.0, "b": 40.0}) == ["d1"]
    assert next_to_change(devices, {"a": 90.0, "b": 4000.0}) == ["d1"]
    devices["d2"] = stays(host("c"))
    assert next_to_change(devices, {"a": 90.0, "b": 40.0}) == ["d0"], "both are missed alike, and d0 takes no time"


def test_a_device_that_activates_less_of_its_family_is_missed_by_what_it_loses() -> None:
    """d0 goes from 100 to 60 of 90; while d1 loads, `b` has nothing."""
    devices = {"d0": standing_by(host("a"), host("a", 60.0, "l")), "d1": on_the_way(host("b"), host("c"))}
    assert next_to_change(devices, {"a": 90.0, "b": 40.0, "c": 1.0}) == ["d0"]


def test_a_device_of_two_variants_of_a_family_is_missed_by_both() -> None:
    devices = {
        "d0": ChangingDevice((host("a"), host("a", 100.0, "l")), (host("c"),)),
        "d1": on_the_way(host("b"), host("c")),
        "d2": stays(host("b", 10.0)),
    }
    assert next_to_change(devices, {"a": 200.0, "b": 90.0, "c": 1.0}) == ["d1"]


def test_queries_are_for_what_comes_while_it_loads_and_for_what_is_there_before() -> None:
    now, wanted = host("a"), host("b")
    assert on_the_way(now, wanted).hosted == (now,)
    assert on_the_way(now, wanted, is_loading=True).hosted == (wanted,)
    assert stays(now).hosted == (now,)
    less = ChangingDevice((now, wanted), (wanted,))
    assert (less.is_complete, less.hosted) == (True, (wanted,))
    assert keys(less.hosts_now) == {("a", "a-s"), ("b", "b-s")}


HOSTS = st.sampled_from([None, host("a"), host("b", 50.0), host("b", 150.0, "l"), host("c", 10.0)])


@given(
    st.lists(st.tuples(HOSTS, HOSTS), min_size=1, max_size=6),
    st.fixed_dictionaries({family: st.sampled_from([0.0, 1.0, 60.0, 100.0, 250.0]) for family in "abc"}),
)
def test_step_by_step_all_get_there_and_no_family_that_had_enough_falls_below_unless_all_wait(
    pairs: list[tuple[HostedVariant | None, HostedVariant | None]], demand_qps: dict[str, float]
) -> None:
    devices = {f"d{n}": on_the_way(now, wanted) for n, (now, wanted) in enumerate(pairs)}
    for _ in range(len(devices)):
        before = carried_qps(devices)
        starting = next_to_change(devices, demand_qps)
        if not starting:
            break
        for device in starting:
            devices[device].load = LOADING
        if len(starting) > 1:  # a single one may be what a deadlock lets go
            after = carried_qps(devices)
            for family, asked_qps in demand_qps.items():
                # What doesn't suffice may fall by as large a part as is missing.
                min_qps = asked_qps if before[family] >= asked_qps else before[family] ** 2 / asked_qps
                assert after[family] >= min_qps - 1e-9
        for device in starting:
            devices[device] = ChangingDevice(devices[device].hosts_wanted, devices[device].hosts_wanted)
    assert all(each.is_complete for each in devices.values())


def carried_qps(devices: dict[str, ChangingDevice]) -> dict[str, float]:
    there = dict.fromkeys("abc", 0.0)
    for device in devices.values():
        for each in device.hosted if device.load is None else ():
            there[each.family] += each.capacity_qps
    return there
