"""What a third stage would gain: chains of variants, and the benchmark's table."""

import numpy as np
import pytest
from builders import make_family, make_measured, make_profile

from benchmarks.cascades import three_stages
from benchmarks.cascades.three_stages import Chain
from benchmarks.cascades.zoo import Measured
from proteus_cli.store.answers import Answers

ROWS = 2000
HARDNESS = np.random.default_rng(1).permutation(np.linspace(0, 1, ROWS))
NO_CLASSES = np.zeros(ROWS, np.int64)
LATENCY_S = {"s": 0.0005, "m": 0.008, "l": 0.03}


def measured(limits: dict[str, float]) -> Measured:
    """A variant is right up to its limit of hardness, and the surer the easier a row is."""
    profile = make_profile("cpu0", *(make_measured("a", name, limits[name], {1: LATENCY_S[name]}) for name in limits))
    answers = {
        name: Answers("e", "d", "margin", (1 - HARDNESS).astype(np.float32), limit > HARDNESS, NO_CLASSES)
        for name, limit in limits.items()
    }
    return Measured(make_family("a", limits), profile, answers)


def test_a_chain_asks_the_next_stage_where_it_is_not_sure() -> None:
    """Of `s` the hardest 60 % go on, of these half on from `m`."""
    of = measured({"s": 0.4, "m": 0.7, "l": 1.0})
    accuracy, qps = Chain(("s", "m", "l"), (0.6, 0.3)).judged(of, np.arange(ROWS))
    assert accuracy == pytest.approx(1.0, abs=0.001)
    assert 1 / qps == pytest.approx(0.0005 + 0.6 * 0.008 + 0.3 * 0.03, rel=0.01)
    alone, alone_qps = Chain(("l",), ()).judged(of, np.arange(ROWS))
    assert alone == pytest.approx(1.0, abs=0.001)
    assert 1 / alone_qps == pytest.approx(0.03)


def test_a_third_stage_is_found_to_pay_where_it_does() -> None:
    """Of 7.5 ms, `s` and `m` take 5.3, by when 70 % are right. What is left brings all three to 77.3 %, as the last
    30 % take another 9 ms, and a mix with `m` → `l` to 75.6 %, as that takes 11.7.
    """
    found = three_stages.gains(measured({"s": 0.4, "m": 0.7, "l": 1.0}), draws=3)
    assert np.mean(found[4]) > 0.003


def test_it_gains_nothing_where_two_of_three_are_alike() -> None:
    found = three_stages.gains(measured({"s": 0.4, "m": 0.4, "l": 1.0}), draws=3)
    assert max(map(abs, (gain for each in found.values() for gain in each))) < 0.001


def test_the_table_has_a_row_for_each_family() -> None:
    table = three_stages.table({"a": {4: [0.01, 0.03], 10: [0.0, 0.0], 20: [-0.01, -0.01]}})
    assert table.rows == (("a", "+2.00 ± 1.00", "+0.00 ± 0.00", "-1.00 ± 0.00"),)
    assert len(table.columns) == len(table.rows[0])
