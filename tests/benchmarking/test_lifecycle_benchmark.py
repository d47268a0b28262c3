"""What the benchmark of the life of models makes of records, and of models."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny import mlp

from benchmarks.lifecycle.noticing import Quiet, Shift
from benchmarks.lifecycle.noticing import aims as aims_of_noticing
from benchmarks.lifecycle.shifting import Noticed
from benchmarks.lifecycle.shifting import Quiet as Calm
from benchmarks.lifecycle.shifting import aims as aims_of_shifting
from benchmarks.lifecycle.swap import Losses, Round, aims, judged, other_version
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.store import model_digest


def record(arrival_s: float, variant: str | None, *, latency_s: float = 0.01) -> RequestRecord:
    if variant is None:
        return RequestRecord("a", arrival_s, Outcome.DROPPED)
    return RequestRecord("a", arrival_s, Outcome.SERVED, latency_s, variant=variant)


def test_a_change_begins_with_the_file_and_is_over_with_the_first_answer_of_the_new_version() -> None:
    records = [
        record(1.0, "m"), record(2.0, "m"), record(6.0, "m", latency_s=0.2), record(7.0, "m@2"), record(7.5, "m"),
        record(7.8, None), record(9.0, "m@2"), record(9.5, "m@2"),
    ]  # fmt: skip
    found = judged(records, 1.5, slo_s=0.1)
    assert (found.took_s, found.after.requests, found.after.lost, found.mixed_s) == (5.5, 7, 1, 0.5)
    assert found.after.violations == pytest.approx(2 / 7)
    assert found.around == pytest.approx(2 / 4)
    assert [aim.is_reached for aim in aims([Round(found, Losses(7, 0, 0.0))])] == [False, False, True]
    assert [aim.is_reached for aim in aims([Round(found, Losses(7, 1, 2 / 7))])] == [True, True, True]


def test_a_version_that_never_answers_is_an_error() -> None:
    with pytest.raises(AssertionError, match="never answered"):
        judged([record(2.0, "m")], 1.0, slo_s=0.1)


def test_another_version_is_the_same_network_with_weights_that_differ_a_little(tmp_path: Path) -> None:
    model = mlp(tmp_path / "m.onnx")
    before = model_digest(model)
    first = onnx.load(model).graph
    model.write_bytes(other_version(model, 1))
    second = onnx.load(model).graph
    assert model_digest(model) != before
    assert [node.op_type for node in first.node] == [node.op_type for node in second.node]
    for old, new in zip(first.initializer, second.initializer, strict=True):
        before_values, after_values = onnx.numpy_helper.to_array(old), onnx.numpy_helper.to_array(new)
        np.testing.assert_allclose(after_values, before_values, rtol=0.01)
        assert not np.array_equal(before_values, after_values)


def test_losses_are_to_be_noticed_by_almost_all_seeds() -> None:
    soon, seldom = Shift("a", 0.9, 0.05, [100] * 19 + [None]), Shift("a", 0.9, 0.05, [100] * 9 + [None])
    small = Shift("a", 0.9, 0.03, [None])
    assert (soon.within_percent, soon.rows(50), soon.rows(100)) == (95.0, 100.0, float("inf"))
    assert [aim.is_reached for aim in aims_of_noticing([soon, small], [Quiet("a", [0, 1])])] == [True, True]
    assert [aim.is_reached for aim in aims_of_noticing([seldom], [Quiet("a", [2, 1])])] == [False, False]


def test_shifts_are_noticed_by_whichever_shows_them_first() -> None:
    both = Noticed("a", "noise", 0.1, [100, None, None], [200, 50, None])
    assert (both.by_either, round(both.within_percent)) == ([100, 50, float("inf")], 67)
    never = Noticed("a", "noise", 0.01, [None], [None])
    soon = Noticed("a", "noise", 0.1, [None], [50])
    assert [aim.is_reached for aim in aims_of_shifting([soon, never], [Calm("a", [(0, 0)])])] == [True, True]
    assert [aim.is_reached for aim in aims_of_shifting([both], [Calm("a", [(0, 1)])])] == [False, False]
