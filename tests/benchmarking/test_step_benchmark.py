"""The benchmark of one step in demand: its trace, and what it makes of its figures."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.adaptation.lab import Lab
from benchmarks.adaptation.own_models import SCORES, SIDE, _save_net
from benchmarks.adaptation.reaction import steps_of
from benchmarks.adaptation.step import Round, aims, table
from proteus_cli.backends.onnxruntime import open_session


def round_of(violations: float, first_second: float, *, is_emulated: bool = False) -> Round:
    return Round(
        low_qps=40.0, high_qps=228.0, requests=4000, violations=violations, first_second=first_second,
        second_second=0.01, afterwards=0.0, relative_accuracy=0.97, changes=3, lag_p99_s=0.002,
        is_emulated=is_emulated,
    )  # fmt: skip


def test_medians_are_judged_and_rounds_shown() -> None:
    measured = [round_of(0.002, 0.04), round_of(0.003, 0.06), round_of(0.03, 0.3)]
    emulated = [round_of(violations, 0.01, is_emulated=True) for violations in (0.001, 0.002, 0.009)]
    rounds = [each for both in zip(measured, emulated, strict=True) for each in both]
    assert [(aim.what.partition(",")[0], aim.measured, aim.is_reached) for aim in aims(rounds)] == [
        ("measured", pytest.approx(0.3), True),
        ("measured", 6.0, False),
        ("emulated", pytest.approx(0.2), True),
        ("emulated", 1.0, True),
    ]
    rows = table(rounds).rows
    assert rows[0] == ("1", "measured", "4,000", "0.20", "4.00", "1.00", "0.00", "97.00", "3", "2.0")
    assert [row[:2] for row in rows[1:3]] == [("1", "emulated"), ("2", "measured")]


def test_a_trace_has_its_steps_where_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "shares", {"a": 1.0})
    trace, starts_s = steps_of(Lab(Path(), (0,)), [(50.0, 2.0), (500.0, 1.0), (50.0, 3.0)], seed=1)
    counts = [np.count_nonzero((trace.arrival_s >= low) & (trace.arrival_s < high)) for low, high in ((0, 2), (2, 3))]
    assert counts == [pytest.approx(100, rel=0.3), pytest.approx(500, rel=0.2)]
    assert [float(trace.arrival_s[trace.arrival_s >= at_s][0]) for at_s in (0, 2, 3)] == starts_s
    assert 3 < trace.duration_s <= 6


def test_a_net_has_its_layers_and_scores_each_row_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    _save_net(path, 3)
    assert [node.op_type for node in onnx.load(path).graph.node].count("Conv") == 3
    rows = np.random.default_rng(0).standard_normal((2, 3, SIDE, SIDE)).astype(np.float32)
    session = open_session(path)
    both, alone = session.run(None, {"x": rows})[0], session.run(None, {"x": rows[1:]})[0]
    assert both.shape == (2, SCORES)
    np.testing.assert_allclose(both[1:], alone, rtol=1e-4, atol=1e-5)
    assert np.ptp(both[0]) > 0.01
