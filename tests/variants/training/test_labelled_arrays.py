"""Labelled rows to train on: what is refused, and what is held out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import blobs, save_rows

from proteus_cli.errors import ArtefactError
from proteus_cli.variants.training.arrays import (
    FEWEST_ROWS,
    HELD_OUT_FRAC,
    LabelledRows,
    apart_from,
    at_most,
    held_out,
    read_labelled,
)

X, Y = blobs(10)
WITH_NAN = np.where(np.arange(len(X))[:, None] < 2, np.nan, X)


def test_training_data_of_samples_have_what_was_answered_beside_the_rows(tmp_path: Path) -> None:
    """Whatever the input of the models is called, as `proteus samples export --as train` names it."""
    path = tmp_path / "new.npz"
    np.savez(path, answer=Y, confidence=np.ones(len(Y), np.float32), pixels=X, y=Y)
    rows = read_labelled(path)
    assert rows.name == "pixels"
    assert np.array_equal(rows.x, X.astype(np.float32))


def rows_of(*per_class: int) -> LabelledRows:
    """Rows that differ, so many of each class."""
    y = np.repeat(np.arange(len(per_class)), per_class)
    return LabelledRows("x", np.arange(len(y), dtype=np.float32)[:, None], y)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x": X}, "it has no array `y`, the labels"),
        ({"y": Y}, "it must have `x`, or one array beside `y`; it has 0"),
        ({"a": X, "b": X, "y": Y}, "it must have `x`, or one array beside `y`; it has 2"),
        ({"x": X, "y": Y[:, None]}, "`y` must be a list of labels; its shape is (30, 1)"),
        ({"x": X, "y": Y[:-1]}, "`x` has 30 rows, and `y` 29 labels"),
        ({"x": Y, "y": Y}, "`x` must have a row of numbers for each label, not (30,)"),
        ({"x": X[:0], "y": Y[:0]}, "`x` must have a row of numbers for each label, not (0, 4)"),
        ({"x": np.full(X.shape, "a"), "y": Y}, "`x` has <U1; it must have numbers"),
        ({"x": WITH_NAN, "y": Y}, "2 rows of `x` have a value that is no number of FP32 (NaN or infinite)"),
        ({"x": X.astype(float) * 1e300, "y": Y}, "30 rows of `x` have a value that is no number of FP32"),
        ({"x": X, "y": Y + 0.5}, "`y` must have whole numbers: the classes, from 0"),
        (
            {"x": X, "y": Y - 1},
            "labels must be from 0; 10 rows of -1 (`proteus samples export --labelled-only`",
        ),
        ({"x": X, "y": Y + 9998}, "labels must be from 0 to 9999"),
        ({"x": X, "y": np.full(len(Y), np.nan)}, "`y` must have whole numbers"),
        ({"x": X, "y": 0 * Y}, "all rows are of one class: there is nothing to tell apart"),
        ({"x": X, "y": 2 * Y}, "class 1 has 0 rows; each class from 0 to 4 needs 5"),
        ({"x": X[:24], "y": Y[:24]}, "class 2 has 4 rows; each class from 0 to 2 needs 5"),
        ({"x": X, "y": np.array([None] * 30)}, "Object arrays cannot be loaded"),
    ],
)
def test_what_can_not_be_learned_from_is_refused(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, **arrays)
    with pytest.raises(ArtefactError) as raised:
        read_labelled(path)
    assert raised.value.message.startswith(f"Can't use the labelled rows in `{path}`: ")
    assert problem in raised.value.message


def test_rows_have_the_name_of_their_array_and_any_number_type(tmp_path: Path) -> None:
    x = (X * 10).astype(np.int16).reshape(-1, 2, 2)
    rows = read_labelled(save_rows(tmp_path / "rows.npz", x, Y.astype(np.uint8), "pixels"))  # type: ignore[arg-type]
    assert (rows.name, rows.classes, str(rows.x.dtype), str(rows.y.dtype)) == ("pixels", 3, "float32", "int64")
    assert np.array_equal(rows.x, x)


PER_CLASS = st.lists(st.integers(FEWEST_ROWS, 60), min_size=2, max_size=6)


@given(per_class=PER_CLASS, seed=st.integers(0, 2**32 - 1))
def test_a_fifth_of_each_class_is_held_out_and_never_trained_on(per_class: list[int], seed: int) -> None:
    rows = rows_of(*per_class)
    split = held_out(rows, seed)
    left = apart_from(rows, split)
    assert sorted([*split.x.ravel(), *left.x.ravel()]) == list(rows.x.ravel())
    assert list(np.bincount(split.y)) == [max(1, int(HELD_OUT_FRAC * rows)) for rows in per_class]
    assert np.array_equal(held_out(rows, seed).x, split.x)


def test_another_seed_holds_other_rows_out() -> None:
    assert not np.array_equal(held_out(rows_of(50, 50), 0).x, held_out(rows_of(50, 50), 1).x)


def test_copies_of_what_is_held_out_are_not_trained_on_whatever_their_label() -> None:
    rows = LabelledRows("x", np.array([[1], [2], [1], [3]], np.float32), np.array([0, 0, 1, 1]))
    assert list(apart_from(rows, rows.take(np.array([0]))).x.ravel()) == [2, 3]


@given(per_class=PER_CLASS, most=st.integers(1, 400))
def test_of_too_many_rows_each_class_keeps_about_the_same_part(per_class: list[int], most: int) -> None:
    rows = rows_of(*per_class)
    taken = at_most(rows, most, 0)
    assert len(taken.y) <= max(most, len(per_class))
    part = min(1.0, most / len(rows.y))
    assert all(abs(n - part * rows) <= 1 for n, rows in zip(np.bincount(taken.y), per_class, strict=True))
