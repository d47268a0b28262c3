"""What requests of a replay carry: rows of an eval split with their labels, or random rows."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny import INPUTS, save_eval

from proteus_cli.errors import ArtefactError, ServerError
from proteus_cli.replay import inputs
from proteus_cli.replay.inputs import InputMetadata, Sample, eval_samples, random_samples

METADATA = [InputMetadata("x", "FP32", [-1, INPUTS])]
WHERE = "http://server/v2/models/a"


def sent(sample: Sample) -> tuple[float, ...]:
    """The row in the body of a request."""
    (tensor,) = msgspec.json.decode(sample.json({}))["inputs"]
    assert (tensor["name"], tensor["shape"], tensor["datatype"]) == ("x", [1, INPUTS], "FP32")
    assert tensor["parameters"] == {"binary_data_size": len(sample.binary)}
    return tuple(np.frombuffer(sample.binary, "<f4").tolist())


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_each_row_of_an_eval_split_is_sent_once_with_its_label_in_random_order(tmp_path: Path) -> None:
    split = save_eval(tmp_path / "eval.npz", rows=32, right=20)
    samples = eval_samples(split, METADATA, WHERE, rng())
    arrays = np.load(split)
    expected = list(zip(map(tuple, arrays["x"].tolist()), arrays["y"].tolist(), strict=True))
    found = [(sent(sample), sample.label) for sample in samples]
    assert sorted(found) == sorted(expected)
    assert found != expected
    assert found == [(sent(sample), sample.label) for sample in eval_samples(split, METADATA, WHERE, rng())]


def test_of_a_large_split_so_much_is_sent_as_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = save_eval(tmp_path / "eval.npz", rows=32)
    monkeypatch.setattr(inputs, "MAX_BYTES", 10 * INPUTS * 4 + 1)
    rows = {sent(sample) for sample in eval_samples(split, METADATA, WHERE, rng())}
    assert len(rows) == 10
    assert rows <= set(map(tuple, np.load(split)["x"].tolist()))


def test_rows_that_a_trace_names_are_in_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = save_eval(tmp_path / "eval.npz", rows=32)
    expected = list(map(tuple, np.load(split)["x"].tolist()))
    assert [sent(sample) for sample in eval_samples(split, METADATA, WHERE, rng(), last_row=31)] == expected
    with pytest.raises(ArtefactError, match=r"names row 32 of the eval split .*, which has 32 rows"):
        eval_samples(split, METADATA, WHERE, rng(), last_row=32)
    monkeypatch.setattr(inputs, "MAX_BYTES", 10 * INPUTS * 4 + 1)
    assert [sent(sample) for sample in eval_samples(split, METADATA, WHERE, rng(), last_row=9)] == expected[:10]
    with pytest.raises(ArtefactError, match=r"The first 11 rows of .* take more than"):
        eval_samples(split, METADATA, WHERE, rng(), last_row=10)


def test_a_split_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    split = save_eval(tmp_path / "eval.npz", inputs=INPUTS + 1)
    with pytest.raises(ArtefactError, match=rf"shape \(32, {INPUTS + 1}\) for `x`; the model takes \(32, {INPUTS}\)"):
        eval_samples(split, METADATA, WHERE, rng())


def test_random_rows_differ_and_have_no_label() -> None:
    samples = random_samples(METADATA, WHERE, rng())
    assert len({sent(sample) for sample in samples}) == inputs.RANDOM_ROWS
    assert {sample.label for sample in samples} == {None}


def test_a_model_that_names_no_inputs_is_refused() -> None:
    with pytest.raises(ServerError, match="names no inputs in its metadata"):
        random_samples([], WHERE, rng())


def test_a_model_whose_rows_are_too_large_or_no_numbers_is_refused(tmp_path: Path) -> None:
    split = save_eval(tmp_path / "eval.npz")
    for bad in (InputMetadata("x", "BYTES", [-1, 1]), InputMetadata("x", "FP32", [-1, 2**62, 2**62])):
        with pytest.raises(ServerError, match=rf"`{WHERE}` has inputs that can't be sent"):
            random_samples([bad], WHERE, rng())
        with pytest.raises(ServerError, match="can't be sent"):
            eval_samples(split, [bad], WHERE, rng())
