"""What the benchmark of clusters makes of its figures."""

import pytest

from benchmarks.cluster import __main__ as benchmark
from benchmarks.cluster import delays, executors, front_ends, losses, scale
from benchmarks.cluster.channels import RoundTrips
from benchmarks.cluster.executors import Compared, Figures
from benchmarks.cluster.losses import SERVER, WAYS, Loss
from benchmarks.cluster.scale import Scale
from benchmarks.tables import aim_line

FOUND = {way: [Loss(0.01 * number, number, 0.1, 0.5 + number, 2.0 + number) for number in range(3)] for way in WAYS}
FOUND[SERVER] = [Loss(None, None, None, None, 2.0)]
SCALES = [
    Scale(10, 0.1, 3.0, 0.01, 0.02, 90.0, 3000.0, 0, 250e-6, 0.8),
    Scale(100, 0.9, 5.0, 0.06, 0.05, 400.0, 3100.0, 0, 260e-6, 0.8),
]


def test_aims_of_losses_are_met_by_medians() -> None:
    reached = {aim.what: aim.is_reached for aim in losses.aims(FOUND)}
    assert len(reached) == 10
    assert [aim for aim, is_reached in reached.items() if not is_reached] == [
        "an agent is killed: new plan"  # 1.5 s, and 1 s is allowed
    ]


def test_a_table_of_losses_has_medians_and_ranges_and_leaves_out_what_does_not_apply() -> None:
    table = losses.table(FOUND)
    rows = {name: cells for name, *cells in table.rows}
    assert rows[WAYS[0]] == ["1.00 (0.00–2.00)", "1 (0–2)", "0.10 (0.10–0.10)", "1.50 (0.50–2.50)", "3.00 (2.00–4.00)"]
    assert rows[SERVER] == ["–", "–", "–", "–", "2.00 (2.00–2.00)"]


def test_many_hosts_are_compared_with_few() -> None:
    assert [aim.is_reached for aim in scale.aims(SCALES)] == [True, False, True]
    assert scale.table(SCALES).rows[1][:7] == ("100", "800", "0.90", "5.0", "6.0", "5.0", "400")


def test_a_second_server_is_told_by_what_both_answer_and_by_what_each_request_costs() -> None:
    found = [front_ends.FrontEnds((3000.0,), (100e-6,), 0), front_ends.FrontEnds((1500.0, 1400.0), (100e-6, 125e-6), 2)]
    assert front_ends.table(found).rows == (
        ("1", "3,000", "100", "0", "10,000"),
        ("2", "2,900", "100 and 125", "2", "18,000"),
    )


def test_the_ratio_that_counts_is_that_of_large_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Compared(160, Figures(100e-6, 200e-6), Figures(190e-6, 400e-6), (1.8, 1.9, 2.0), 60e-6),
        Compared(16320, Figures(100e-6, 200e-6), Figures(140e-6, 300e-6), (1.3, 1.4, 1.5), 70e-6),
    ]
    monkeypatch.setattr(executors, "measure", lambda *_: found)
    (table,), (aim,) = benchmark.PARTS["executors"](benchmark.Runs.quick())
    assert table.rows[-3] == ("16.3 KB, ratio", "1.40 (1.30–1.50)", "1.50")
    assert [cells[1] for cells in table.rows[-2:]] == ["70", "1.70"]
    assert aim_line(aim).startswith("✓ CPU of the server per batch of 16 KB, remote / process: 1.40 ×")


def test_a_table_of_delays_says_how_they_were_made() -> None:
    trip = RoundTrips("TLS 1.3", 16384, 0.0023, 0.003, 1e-4)
    table = delays.table([delays.Delayed(0.001, delays.RELAY, trip)])
    assert table.rows == (("1 ms each way, 16 KB", "2.30", "3.00", "0.30"),)
    assert table.note == "latency by a relay in the benchmark's process"
