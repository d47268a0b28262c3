"""Files of machines of one make become one profile; unlike machines are refused."""

from decimal import Decimal
from itertools import permutations

import pytest
from msgspec.structs import replace

from proteus_cli.errors import ArtefactError
from proteus_cli.profiling.csv_file import ProfileRow
from proteus_cli.profiling.merging import SAME_MAKE_FRAC, merged


def row(latency_s: float = 0.010, batch: int = 1, *, noise_frac: float = 0.0, variant: str = "s") -> ProfileRow:
    latency_ms = Decimal(repr(1000 * latency_s))
    return ProfileRow(
        "edge", "a", variant, 0.8, batch, latency_ms, device_memory_bytes=8000, noise_frac=noise_frac, model_digest="m"
    )


def latencies(*files: list[ProfileRow]) -> list[float]:
    both = merged([(f"{number}.csv", rows) for number, rows in enumerate(files)])
    return [each.point.mean_s for each in both.rows]


def test_one_file_is_as_it_is() -> None:
    rows = (row(), row(0.02, 2))
    both = merged([("a.csv", rows)])
    assert (both.rows, both.shared) == (rows, 0)


def test_cells_of_both_files_are_there() -> None:
    assert latencies([row()], [row(0.02, 2), row(0.03, variant="m")]) == [0.010, 0.02, 0.03]


@pytest.mark.parametrize("swapped", [False, True])
def test_the_slower_of_two_cells_counts(*, swapped: bool) -> None:
    files = [("a.csv", [row(0.010)]), ("b.csv", [row(0.011)])]
    both = merged(files[::-1] if swapped else files)
    assert [each.point.mean_s for each in both.rows] == [0.011]
    assert both.shared == 1
    assert both.spread_frac == pytest.approx(0.1)


@pytest.mark.parametrize("order", list(permutations((0.010, 0.0119, 0.0131))))
def test_of_three_files_the_fastest_and_the_slowest_are_compared(order: tuple[float, ...]) -> None:
    with pytest.raises(ArtefactError, match=r"takes 10\.0 ms in .* and 13\.1 ms in"):
        latencies(*([row(latency_s)] for latency_s in order))


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_in_any_order_noisy_cells_do_not_count_beside_one_that_can_be_trusted(order: tuple[int, ...]) -> None:
    files = [row(0.050, noise_frac=0.8), row(0.020, noise_frac=0.5), row(0.010)]
    assert latencies(*([files[number]] for number in order)) == [0.010]


def test_machines_that_differ_by_more_than_noise_are_not_of_one_make() -> None:
    latencies([row(0.010)], [row(0.010 * (1 + SAME_MAKE_FRAC))])
    with pytest.raises(ArtefactError, match=r"takes 10\.0 ms in `0\.csv` and 12\.1 ms in `1\.csv`") as caught:
        latencies([row(0.010)], [row(0.0121)])
    assert "--as-type" in caught.value.hint


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"model_digest": "n"}, "model_digest of `a/s` is m in `0.csv` and n in `1.csv`"),
        ({"accuracy": 0.9}, "accuracy of `edge/a/s` is 0.8 in `0.csv` and 0.9 in `1.csv`"),
        ({"device_kind": "gpu"}, "device_kind of `edge` is cpu in `0.csv` and gpu in `1.csv`"),
        ({"device_slots": 2}, "device_slots of `edge` is 1 in `0.csv` and 2 in `1.csv`"),
    ],
)
def test_files_of_other_models_are_not_merged(changed: dict[str, object], problem: str) -> None:
    with pytest.raises(ArtefactError) as caught:
        latencies([replace(row(), device_kind="cpu")], [replace(row(0.02, 2), **changed)])
    assert problem in caught.value.message


def test_a_file_that_knows_no_digest_fits_any() -> None:
    assert latencies([row()], [replace(row(0.02, 2), model_digest=None)]) == [0.010, 0.02]


def test_a_type_is_as_far_away_as_the_farthest_of_its_machines() -> None:
    near_by, far = (
        replace(row(), network_round_trip_ms=Decimal(1), network_bytes_per_s=1e8, network_row_bytes=40),
        replace(row(0.009), network_round_trip_ms=Decimal(2), network_bytes_per_s=1e9),
    )
    both = merged([("a.csv", [near_by, row(0.02, 2)]), ("b.csv", [far])])
    found = [(each.network_round_trip_ms, each.network_bytes_per_s, each.network_row_bytes) for each in both.rows]
    assert found == [(Decimal(2), 1e8, 40)] * 2


def test_a_type_has_the_memory_of_its_smallest_machine() -> None:
    both = merged([("a.csv", [row()]), ("b.csv", [replace(row(0.02, 2), device_memory_bytes=7900)])])
    assert {each.device_memory_bytes for each in both.rows} == {7900}


@pytest.mark.parametrize("swapped", [False, True])
def test_the_most_that_a_machine_takes_counts_though_it_is_the_faster_one(*, swapped: bool) -> None:
    fast = replace(row(0.010), load_s=2.0, memory_bytes=500, slot_bytes=50, power_w=90.0)
    slow = replace(row(0.011), load_s=1.0, memory_bytes=400)
    files = [("a.csv", [fast]), ("b.csv", [slow])]
    (both,) = merged(files[::-1] if swapped else files).rows
    assert both.point == slow.point
    assert (both.load_s, both.memory_bytes, both.slot_bytes, both.power_w) == (2.0, 500, 50, 90.0)
