import msgspec
import pytest
from builders import make_measured, make_point, make_profile, make_table, near
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.base import LARGEST_BATCH, checked
from proteus_cli.domain.capacity import Capacity
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.cluster import Network
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import Point, Profile
from proteus_cli.domain.profile_changes import best_accuracy
from proteus_cli.domain.rules import PAPER_RULES
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.serving.devices.remote.measuring import reached_over

LATENCIES = st.dictionaries(st.integers(1, 64), st.floats(1e-5, 10.0), min_size=1, max_size=8).map(
    lambda latency_s: dict(sorted(latency_s.items()))
)


def test_latency_is_linear_between_the_measured_batches() -> None:
    """From 10 ms at 1 to 40 ms at 4: 20 ms at 2 and 30 ms at 3. Measured points are met exactly."""
    table = make_table({1: 0.010, 4: 0.040})
    assert [table(rows) for rows in (0, 1, 2, 3, 4)] == pytest.approx([0.0, 0.010, 0.020, 0.030, 0.040])


def test_below_the_first_measured_batch_latency_is_that_of_the_first() -> None:
    table = make_table({4: 0.040, 8: 0.080})
    assert [table(rows) for rows in (1, 3, 4)] == [0.040] * 3


def test_beyond_the_last_measured_batch_latency_goes_on_with_its_cost_per_row() -> None:
    """8 rows in 40 ms are 5 ms a row: 9 take 45 ms, 16 take 80 ms."""
    table = make_table({1: 0.010, 8: 0.040})
    assert table(9) == pytest.approx(0.045)
    assert table(16) == pytest.approx(0.080)


@given(LATENCIES)
def test_latency_never_falls_with_more_rows_however_noisy_the_points(latency_s: dict[int, float]) -> None:
    table = make_table(latency_s)
    seen = [table(rows) for rows in range(2 * max(latency_s) + 2)]
    assert seen == sorted(seen)
    assert all(table(batch) >= seconds for batch, seconds in latency_s.items())


def test_a_noisy_point_is_lifted_to_the_one_before_it() -> None:
    table = make_table({1: 0.010, 2: 0.008, 4: 0.020})
    assert [table(rows) for rows in (1, 2, 3, 4)] == pytest.approx([0.010, 0.010, 0.015, 0.020])


def test_the_column_of_the_profile_is_the_callers_choice() -> None:
    point = Point(1, 10, 0.010, 0.011, 0.012, 0.013, 0.014, 100.0)
    assert LatencyTable((point,), of=lambda p: p.mean_s)(1) == 0.010
    assert LatencyTable((point,), of=lambda p: p.p95_s)(1) == 0.013


def test_a_table_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one point"):
        LatencyTable((), of=lambda p: p.p95_s)


def test_most_rows_within_counts_what_fits_the_budget() -> None:
    """10 ms a row: 35 ms take 3 rows, 40 ms take 4, 9 ms none; and never more than asked for."""
    table = make_table({1: 0.010, 2: 0.020, 4: 0.040})
    assert table.max_rows_within(0.035, at_most=8) == 3
    assert table.max_rows_within(0.040, at_most=8) == 4
    assert table.max_rows_within(1.0, at_most=2) == 2
    assert table.max_rows_within(0.009, at_most=8) == 0
    assert table.max_rows_within(-1.0, at_most=8) == 0


@given(LATENCIES, st.floats(0, 20.0), st.integers(0, 100))
def test_most_rows_within_is_the_largest_that_fits(latency_s: dict[int, float], budget_s: float, at_most: int) -> None:
    table = make_table(latency_s)
    rows = table.max_rows_within(budget_s, at_most)
    assert 0 <= rows <= at_most
    assert rows == 0 or table(rows) <= budget_s
    assert rows == at_most or table(rows + 1) > budget_s


@pytest.mark.parametrize("latency_s", [0.0, -1.0, float("nan"), float("inf"), 1e-308, 5e-324, 1e308])
def test_a_point_needs_latencies_that_a_clock_can_measure(latency_s: float) -> None:
    with pytest.raises(ValueError, match="p95_s"):
        checked(Point(2, 10, 0.01, 0.01, 0.01, latency_s, 0.01, 200.0))


def test_batches_must_rise() -> None:
    with pytest.raises(ValueError, match="must rise"):
        make_measured("a", "a-s", 0.8, {4: 0.04, 1: 0.01})
    for batch in (0, LARGEST_BATCH + 1, 10**9, 10**20):
        with pytest.raises(ValueError, match="batch"):
            checked(make_point(batch, 0.01))


def test_a_profile_lists_a_variant_once_and_finds_it_by_both_names() -> None:
    small, other = make_measured("a", "s", 0.8, {1: 0.01}), make_measured("b", "s", 0.7, {1: 0.01})
    profile = make_profile("cpu0", small, other)
    assert profile.of("b", "s") is other
    assert profile.of("b", "l") is None
    with pytest.raises(ValueError, match="twice"):
        make_profile("cpu0", small, make_measured("a", "s", 0.9, {1: 0.02}))


def test_the_best_accuracy_of_a_family_is_over_all_devices() -> None:
    here = make_profile("cpu0", make_measured("a", "s", 0.8, {1: 0.01}), make_measured("b", "s", 0.6, {1: 0.01}))
    there = make_profile("gpu0", make_measured("a", "l", 0.9, {}))
    assert best_accuracy([here, there]) == {"a": 0.9, "b": 0.6}


# --- several batches on the device at once


AT_ONCE = make_measured(
    "a", "s", 0.8, {1: 0.010, 4: 0.020, 8: 0.040}, memory_bytes=1000, slot_bytes=300,
    at_once_s={2: {1: 0.015, 4: 0.030, 8: 0.060}, 3: {1: 0.015}},
)  # fmt: skip


def test_capacity_counts_all_batches_that_are_on_the_device_at_once() -> None:
    """Two batches of 4 in 30 ms are 267 qps, where one at a time is 200; two of 8 take more than half the SLO."""
    assert PAPER_RULES.capacity_within(0.1, AT_ONCE.points_at(1)) == Capacity(qps=near(200.0), max_batch=4)
    assert PAPER_RULES.capacity_within(0.1, AT_ONCE.points_at(2)) == Capacity(qps=near(2 * 4 / 0.030), max_batch=4)


def test_a_profile_is_used_as_the_device_is_served() -> None:
    assert make_profile("gpu0", AT_ONCE).points_of(AT_ONCE) == AT_ONCE.points
    assert [point.mean_s for point in make_profile("gpu0", AT_ONCE, slots=2).points_of(AT_ONCE)] == [
        0.015,
        0.030,
        0.060,
    ]


def test_stages_take_longer_where_several_batches_run_as_the_whole_does() -> None:
    """Linear between batches that were measured at once; never less than alone."""
    stage = ExitProfile(points=tuple(StagePoint(batch, 0.001, 0.002) for batch in (1, 2, 8)))
    busy_s = {1: 0.020, 4: 0.025, 8: 0.030}
    measured = make_measured("a", "s", 0.8, {1: 0.010, 4: 0.020, 8: 0.040}, at_once_s={2: busy_s})
    measured = msgspec.structs.replace(measured, exits=(stage, stage))
    alone, two, three = (make_profile("gpu0", measured, slots=slots) for slots in (1, 2, 3))
    assert alone.exits_of(measured) is measured.exits
    assert three.exits_of(measured) is measured.exits  # nothing is known of it
    for each in two.exits_of(measured):
        assert [point.mean_s for point in each.points] == [near(0.002), near(0.00175), near(0.001)]
        assert [point.p95_s for point in each.points] == [near(0.004), near(0.0035), near(0.002)]
    assert two.has_stages(measured)
    assert not three.has_stages(measured)
    there = reached_over(Network(0.1, 1e6, {"a": 1000}), two)  # whose wholes have the way there and back
    assert [near(each.mean_s) for each in there.exits_of(there.variants[0])[0].points] == [0.002, 0.00175, 0.001]


def test_where_a_number_of_slots_was_not_measured_that_of_more_stands_for_it() -> None:
    """Which is never too fast."""
    sparse = msgspec.structs.replace(AT_ONCE, concurrent=AT_ONCE.points_at(3))
    assert AT_ONCE.points_up_to(2) == (AT_ONCE.points, AT_ONCE.points_at(2))
    assert sparse.points_up_to(3) == (sparse.points, sparse.points_at(3), sparse.points_at(3))


def test_each_slot_takes_memory() -> None:
    assert [AT_ONCE.memory_with(slots) for slots in (1, 2, 4)] == [1000, 1300, 1900]
    assert make_measured("a", "s", 0.8, {1: 0.01}, memory_bytes=0, slot_bytes=300).memory_with(2) == 0  # unknown


@pytest.mark.parametrize(
    ("places", "words"),
    [([(1, 1)], "are of more"), ([(1, 2), (1, 2)], "must rise"), ([(2, 2), (1, 3)], "must rise")],
)
def test_concurrent_points_are_of_several_slots_and_in_order(places: list[tuple[int, int]], words: str) -> None:
    concurrent = tuple(make_point(batch, 0.01, slots) for batch, slots in places)
    with pytest.raises(ValueError, match=words):
        msgspec.structs.replace(AT_ONCE, concurrent=concurrent)


def test_points_of_several_slots_are_not_taken_for_those_of_one() -> None:
    with pytest.raises(ValueError, match="of one slot"):
        msgspec.structs.replace(AT_ONCE, points=(make_point(1, 0.01, slots=2),))


def test_a_profile_without_slots_is_written_as_ever() -> None:
    """What devices of one slot don't have is not in their files, so these stay what they were, to the byte."""
    written = msgspec.json.encode(make_profile("cpu0", make_measured("a", "s", 0.8, {1: 0.01})))
    assert b'"power_w":null' in written
    for field in (b"slots", b"concurrent", b"slot_bytes", b"compute_s", b"energy_j"):
        assert field not in written
    profile = make_profile("gpu0", AT_ONCE, slots=2)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile


@pytest.mark.parametrize("field", ["id", "type", "name"])
def test_what_a_device_is_called_is_printable(field: str) -> None:
    """It is shown in tables, logs and labels."""
    with pytest.raises(ValueError, match="printable"):
        msgspec.structs.replace(make_profile("cpu0").device, **{field: "cpu\x1b[2J"})


def test_engines_take_memory_with_all_slots_of_their_device() -> None:
    small = make_measured("a", "s", 0.8, {1: 0.01}, memory_bytes=900, slot_bytes=200)
    unknown = make_measured("a", "m", 0.9, {1: 0.02}, memory_bytes=0, slot_bytes=200)
    profile = make_profile("gpu0", small, unknown, slots=3)
    assert profile.needed_bytes([small.key, small.key, unknown.key, VariantKey("a", "not measured")]) == 1300
