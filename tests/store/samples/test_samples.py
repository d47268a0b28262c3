"""Files of samples: read as they were written, bounded in space and time, for their owner alone, exported."""

import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from proteus_cli.backends.base import TensorSpec
from proteus_cli.errors import ArtefactError
from proteus_cli.store.eval_splits import labelled_rows
from proteus_cli.store.samples.chunk import (
    NO_CLASS,
    Chunk,
    SampledRequest,
    SampledTensor,
    encoded_chunk,
    encoded_labels,
    read_chunk,
    write_arrays,
)
from proteus_cli.store.samples.directory import CHUNK, LABELS, SampleSpace, remove, sample_files, write_samples
from proteus_cli.store.samples.export import NO_LABEL, sampled_rows, write_split
from proteus_cli.store.samples.summary import summaries

RUN, OTHER_RUN = "0" * 8, "f" * 8
NOW_S = 1_800_000_000.0
INPUTS = (SampledTensor("x", "<f4", (2,)), SampledTensor("file", "|u1", ()))


def chunk(first: int, *rows: int, run: str = RUN, inputs: tuple[SampledTensor, ...] = INPUTS) -> Chunk:
    """Requests of so many rows, whose values tell their number."""
    count = sum(rows)
    requests = tuple(
        SampledRequest(first + place, f"r{first + place}", NOW_S + first + place, "s", each)
        for place, each in enumerate(rows)
    )
    values = np.arange(count) + 100 * first
    arrays = tuple(
        np.broadcast_to(values.reshape(-1, *[1] * len(each.shape)), (count, *each.shape)).astype(each.dtype)
        for each in inputs
    )
    return Chunk("a", run, inputs, requests, np.arange(count) - 1, np.linspace(0, 1, count, dtype=np.float32), arrays)


def write(root: Path, number: int, content: bytes, *, kind: str = CHUNK, age_s: float = 0.0, run: str = RUN) -> None:
    write_samples(root, "a", run, number, NOW_S - age_s, kind, content)


def test_a_chunk_is_read_as_it_was_written_and_by_numpy(tmp_path: Path) -> None:
    before = chunk(3, 1, 4, 2)
    write(tmp_path, 1, encoded_chunk(before))
    (file,) = sample_files(tmp_path)
    after = read_chunk(file.path)
    assert (after.family, after.run, after.inputs, after.requests) == ("a", RUN, before.inputs, before.requests)
    assert (after.classes.tolist(), after.confidences.tolist()) == (
        before.classes.tolist(), before.confidences.tolist(),
    )  # fmt: skip
    assert all(np.array_equal(one, other) for one, other in zip(after.rows, before.rows, strict=True))
    with np.load(file.path) as arrays:
        assert arrays["input0"].tolist() == before.rows[0].tolist()


def test_only_the_owner_may_read_samples(tmp_path: Path) -> None:
    write(tmp_path / "samples", 1, encoded_chunk(chunk(0, 1)))
    (file,) = sample_files(tmp_path / "samples")
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (file.path, file.path.parent, file.path.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]
    assert [each.name for each in file.path.parent.iterdir()] == [file.path.name]


def test_what_others_may_not_read_beside_a_family_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scanned(path: Path) -> Any:
        if path.name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(path)

    write(tmp_path, 1, encoded_chunk(chunk(0, 1)))
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir
    monkeypatch.setattr("proteus_cli.store.samples.directory.os.scandir", scanned)
    assert len(sample_files(tmp_path, "a")) == 1
    with pytest.raises(ArtefactError, match="no samples of `b`") as refused:
        sample_files(tmp_path, "b")
    assert refused.value.hint == "there are samples of: a"
    with pytest.raises(ArtefactError, match="Permission denied"):
        sample_files(tmp_path)


def test_the_oldest_make_room_and_what_is_too_old_goes(tmp_path: Path) -> None:
    content = encoded_chunk(chunk(0, 1))
    for number, age_s in enumerate((50.0, 40.0, 30.0, 20.0, 10.0)):
        write(tmp_path, number, content, age_s=age_s)
    size = len(content)
    (tmp_path / "a" / "notes.txt").write_text("not ours")
    space = SampleSpace(tmp_path, 3 * size + 1)
    space.make_room(size, NOW_S)
    assert len(space) == 0, "nothing is known before it has looked"
    roomy = SampleSpace(tmp_path, 10 * size)
    roomy.look()
    roomy.make_room(size, NOW_S - 45)
    assert (len(roomy), roomy.size_bytes) == (4, 4 * size)
    space.look()
    space.make_room(size, NOW_S - 45)
    assert (len(space), space.size_bytes) == (2, 2 * size)
    assert [round(NOW_S - each.unix_s) for each in sample_files(tmp_path)] == [20, 10]
    remove(tmp_path, sample_files(tmp_path))
    assert [each.name for each in (tmp_path / "a").iterdir()] == ["notes.txt"]


def test_room_is_made_of_what_was_written_without_another_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded_chunk(chunk(0, 1))
    space = SampleSpace(tmp_path, 3 * len(content))
    write(tmp_path, 0, content, age_s=60.0)
    space.look()
    monkeypatch.setattr("proteus_cli.store.samples.directory.sample_files", None)
    for number in range(1, 10):
        space.make_room(len(content), NOW_S - 3600)
        space.add(write_samples(tmp_path, "a", RUN, number, NOW_S + number, CHUNK, content))
        assert space.size_bytes == len(space) * len(content) <= 3 * len(content)
        if number == 5:  # a person, or another server, has removed one
            next(iter(sorted((tmp_path / "a").iterdir()))).unlink()
    monkeypatch.undo()
    assert [each.unix_s - NOW_S for each in sample_files(tmp_path)] == [7, 8, 9]


@pytest.mark.parametrize(("name", "with_answers"), [("y", False), ("y", True), ("answer", True), ("confidence", True)])
def test_an_input_does_not_take_the_place_of_another_array(tmp_path: Path, name: str, *, with_answers: bool) -> None:
    """Labels, or what was answered, and the input cannot both have the name."""
    write(tmp_path, 1, encoded_chunk(chunk(0, 1, inputs=(SampledTensor(name, "<f4", (2,)), INPUTS[1]))))
    rows = sampled_rows(tmp_path, "a", since_unix_s=0.0, labelled_only=False)
    with pytest.raises(ArtefactError, match=f"have an input `{name}`, and the file has another array of that name"):
        write_split(tmp_path / "t.npz", rows, with_answers=with_answers)
    assert not (tmp_path / "t.npz").exists()
    if name != "y":
        write_split(tmp_path / "t.npz", rows, with_answers=False)
        with np.load(tmp_path / "t.npz") as arrays:
            assert sorted(arrays) == sorted(["file", name, "y"])


def test_a_time_that_leaves_all_samples_out_is_told_with_that_of_the_last(tmp_path: Path) -> None:
    write(tmp_path, 1, encoded_chunk(chunk(0, 1)), age_s=50.0)
    told = (
        "There are no samples of `a` since 2027-01-15 08:00:00+00:00: the last ones are of 2027-01-15 07:59:10+00:00."
    )
    with pytest.raises(ArtefactError, match=re.escape(told)):
        sampled_rows(tmp_path, "a", since_unix_s=NOW_S, labelled_only=False)
    with pytest.raises(ArtefactError, match=r"There are no samples of `b`\."):
        sampled_rows(tmp_path, "b", since_unix_s=NOW_S, labelled_only=False)


def test_labels_are_joined_by_run_and_number(tmp_path: Path) -> None:
    write(tmp_path, 1, encoded_chunk(chunk(0, 1, 2, 1)))
    write(tmp_path, 1, encoded_chunk(chunk(0, 1, run=OTHER_RUN)), run=OTHER_RUN)
    write(tmp_path, 2, encoded_labels("a", RUN, {0: [7], 1: [None, 5], 2: [1, 1], 9: [3]}), kind=LABELS)
    found = sampled_rows(tmp_path, "a", since_unix_s=0.0, labelled_only=False)
    assert found.labels.tolist() == [7, NO_LABEL, 5, NO_LABEL, NO_LABEL]
    assert found.inputs["x"][:, 0].tolist() == [0, 1, 2, 3, 0]
    (told,) = summaries(tmp_path)
    assert (told.requests, told.rows) == (4, 5)


def test_an_exported_eval_split_is_read_as_any_other(tmp_path: Path) -> None:
    write(tmp_path, 1, encoded_chunk(chunk(0, 1, 2)))
    write(tmp_path, 2, encoded_labels("a", RUN, {1: [4, 5]}), kind=LABELS)
    rows = sampled_rows(tmp_path, "a", since_unix_s=0.0, labelled_only=True)
    write_split(tmp_path / "eval.npz", rows, with_answers=False)
    assert stat.S_IMODE((tmp_path / "eval.npz").stat().st_mode) == 0o600, "as the samples, for their owner alone"
    specs = [TensorSpec("x", np.dtype(np.float32), (2,)), TensorSpec("file", np.dtype(np.uint8), ())]
    inputs, labels = labelled_rows(tmp_path / "eval.npz", specs)
    assert (labels.tolist(), inputs["x"].tolist()) == ([4, 5], [[1.0, 1.0], [2.0, 2.0]])


def test_training_data_has_what_was_answered(tmp_path: Path) -> None:
    write(tmp_path, 1, encoded_chunk(chunk(0, 2)))
    write_split(
        tmp_path / "t.npz", sampled_rows(tmp_path, "a", since_unix_s=0.0, labelled_only=False), with_answers=True
    )
    with np.load(tmp_path / "t.npz") as arrays:
        assert set(arrays) == {"y", "x", "file", "answer", "confidence"}
        assert (arrays["answer"].tolist(), arrays["y"].tolist()) == ([NO_CLASS, 0], [NO_LABEL, NO_LABEL])


def test_samples_without_a_label_are_no_eval_split(tmp_path: Path) -> None:
    write(tmp_path, 1, encoded_chunk(chunk(0, 2)))
    with pytest.raises(ArtefactError, match="No sample of `a` has a label"):
        sampled_rows(tmp_path, "a", since_unix_s=0.0, labelled_only=True)


def test_samples_of_other_inputs_cannot_be_put_together(tmp_path: Path) -> None:
    write(tmp_path, 1, encoded_chunk(chunk(0, 1)))
    write(tmp_path, 2, encoded_chunk(chunk(1, 1, inputs=INPUTS[:1])))
    with pytest.raises(ArtefactError, match="have changed"):
        sampled_rows(tmp_path, "a", since_unix_s=0.0, labelled_only=False)


@pytest.mark.parametrize(
    "changed",
    [
        {"classes": np.zeros(2, np.int64)},
        {"confidences": np.zeros(3, np.float64)},
        {"input0": np.zeros((3, 5), np.float32)},
        {"input0": np.array([{}] * 3)},
        {"index": np.frombuffer(b"{}", np.uint8)},
        {"input1": None},
    ],
    ids=str,
)
def test_a_damaged_file_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    write(tmp_path, 1, encoded_chunk(chunk(0, 3)))
    (file,) = sample_files(tmp_path)
    with np.load(file.path) as arrays:
        content = {**arrays, **changed}
    with file.path.open("wb") as out:
        if any(values is not None and values.dtype == object for values in content.values()):
            np.savez(out, **content)
        else:
            write_arrays(out, {name: each for name, each in content.items() if each is not None}, compression=0)
    with pytest.raises(ArtefactError, match="not a valid file of samples"):
        sampled_rows(tmp_path, "a", since_unix_s=0.0, labelled_only=False)
