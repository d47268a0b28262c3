"""The file of answers: whole, small, and read with care."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import ArtefactError
from proteus_cli.store.answers import MAX_ROWS, Answers, kept_rows, read_answers, write_answers

SMALL, LARGE = VariantKey("digits", "s"), VariantKey("digits", "l")


def answers(rows: int, engine: str = "1" * 64) -> Answers:
    rng = np.random.default_rng(rows)
    right, classes = rng.random(rows) < 0.9, rng.integers(0, 10, rows)
    return Answers(engine, "e" * 64, "margin", rng.random(rows).astype(np.float32), right, classes)


def test_answers_that_can_not_be_removed_are_told_as_what_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "cpu0.answers.npz").mkdir()
    with pytest.raises(ArtefactError, match=r"Can't write `.*cpu0\.answers\.npz`: Is a directory"):
        write_answers(tmp_path / "cpu0.answers.npz", {})


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    written = {SMALL: answers(300), LARGE: answers(70, engine="2" * 64)}
    write_answers(tmp_path / "cpu0.answers.npz", written)
    found = read_answers(tmp_path / "cpu0.answers.npz")
    assert list(found) == [SMALL, LARGE]
    for key, each in written.items():
        assert found[key].content_key == each.content_key
        assert found[key].confidences.tolist() == each.confidences.tolist()
        assert found[key].correct.tolist() == each.correct.tolist()
        assert found[key].classes.tolist() == each.classes.tolist()


def test_numpy_reads_the_file_as_well(tmp_path: Path) -> None:
    write_answers(tmp_path / "cpu0.answers.npz", {SMALL: answers(300)})
    with np.load(tmp_path / "cpu0.answers.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["classes", "confidences", "correct", "index"]
        assert bytes(arrays["index"]).startswith(b'{"format":1,"made_by":')


def test_without_answers_there_is_no_file(tmp_path: Path) -> None:
    path = tmp_path / "cpu0.answers.npz"
    write_answers(path, {SMALL: answers(1)})
    write_answers(path, {})
    assert not path.exists()
    assert read_answers(path) == {}


@pytest.mark.parametrize("rows", [1, MAX_ROWS, MAX_ROWS + 1, 3 * MAX_ROWS, 1_000_003])
def test_of_a_large_split_rows_at_equal_distances_are_kept(rows: int) -> None:
    kept = np.arange(rows)[kept_rows(rows)]
    assert len(kept) <= MAX_ROWS
    assert len(kept) == rows or len(kept) > MAX_ROWS // 2
    assert set(np.diff(kept)) <= {-(-rows // MAX_ROWS)}
    assert answers(len(kept)).are_of(rows)
    assert not answers(len(kept) + 1).are_of(rows)


def repacked(path: Path, **arrays: "np.ndarray[tuple[int, ...], np.dtype[np.generic]] | bytes | None") -> None:
    """The file with other members; None leaves one out."""
    with zipfile.ZipFile(path) as before:
        members = {name: before.read(name) for name in before.namelist()}
    for name, value in arrays.items():
        content = io.BytesIO()
        if isinstance(value, np.ndarray):
            np.save(content, value)
        members[f"{name}.npy"] = value if isinstance(value, bytes) else content.getvalue()
        if value is None:
            del members[f"{name}.npy"]
    with zipfile.ZipFile(path, "w") as after:
        for name, content_bytes in members.items():
            after.writestr(name, content_bytes)


CLAIM = b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}".ljust(118)


@pytest.mark.parametrize(
    "arrays",
    [
        {"confidences": np.zeros(299, np.float32)},
        {"confidences": np.zeros(300, np.float64)},
        {"confidences": np.zeros((300, 1), np.float32)},
        {"confidences": None},
        {"confidences": b"nothing"},
        {"confidences": CLAIM},
        {"correct": np.full(300, 7, np.uint8).view(np.bool_)},
        {"classes": np.zeros(299, np.int32)},
        {"classes": np.zeros(300, np.int64)},
        {"classes": np.full(300, -1, np.int32)},
        {"index": np.frombuffer(b"{}", np.uint8)},
        {"index": np.frombuffer(b'{"format":2,"made_by":{"version":"","host":"","time":""},"variants":[]}', np.uint8)},
    ],
    ids=lambda arrays: next(iter(arrays)),
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, arrays: "dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]] | bytes | None]"
) -> None:
    path = tmp_path / "cpu0.answers.npz"
    write_answers(path, {SMALL: answers(300)})
    repacked(path, **arrays)
    with pytest.raises(ArtefactError, match="not a valid file of answers") as refused:
        read_answers(path)
    assert "proteus profile" in refused.value.hint


def test_a_file_of_a_version_that_did_not_keep_classes_knows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cpu0.answers.npz"
    write_answers(path, {SMALL: answers(300)})
    repacked(path, classes=None)
    assert read_answers(path) == {}


def test_what_is_no_zip_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cpu0.answers.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ArtefactError, match="not a valid file of answers"):
        read_answers(tmp_path / "cpu0.answers.npz")
