"""Answers of variants to the rows of their eval splits, in a file beside a profile: `profiles/<device>.answers.npz`."""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import msgspec
import numpy as np

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.domain.base import FORMAT, MadeBy, Value, is_count, require
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import ANSWERS, read_bytes
from proteus_cli.store.files import made_by, remove, write_bytes
from proteus_cli.store.npz_arrays import NOT_NPZ, array_in

MAX_ROWS = 50_000
"""Maximum number of rows of a variant. From a larger eval split, rows at equal distances are kept."""

_HINT = "remove it; `proteus profile` measures the answers anew"


@dataclass(frozen=True, slots=True)
class Answers:
    """How confident a variant was of its answer to each row, whether that was right, and its class.

    They are current while the engine, the eval split and what counts as ``confidence`` are what they were.
    """

    engine_digest: str
    eval_digest: str
    confidence: str
    confidences: Singles
    correct: Bools
    classes: Ints

    @property
    def content_key(self) -> tuple[str, str, str]:
        """Answers with one key are the same."""
        return self.engine_digest, self.eval_digest, self.confidence

    def are_of(self, rows: int) -> bool:
        """Whether they are the kept answers of a split of this number of rows."""
        return len(self.correct) == len(range(rows)[kept_rows(rows)])


def kept_rows(rows: int) -> slice:
    """The rows of an eval split whose answers are kept: all, or at most `MAX_ROWS` at equal distances."""
    return slice(None, None, -(-rows // MAX_ROWS))


class _StoredAnswers(Value, frozen=True):
    family: str
    variant: str
    engine_digest: str
    eval_digest: str
    confidence: str
    rows: int

    def __post_init__(self) -> None:
        require(is_count(self.rows, 1, MAX_ROWS), f"rows of `{self.variant}` must be from 1 to {MAX_ROWS:,}")


class _AnswersIndex(Value, frozen=True):
    format: int
    made_by: MadeBy
    variants: tuple[_StoredAnswers, ...]

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")


def write_answers(path: Path, answers: Mapping[VariantKey, Answers]) -> None:
    """Write the answers of the variants, whole or not at all; without any, the file is removed.

    Raises `ArtefactError`.
    """
    if not answers:
        remove(path)
        return
    entries = [
        _StoredAnswers(*key, each.engine_digest, each.eval_digest, each.confidence, len(each.correct))
        for key, each in answers.items()
    ]
    index = msgspec.json.encode(_AnswersIndex(FORMAT, made_by(), tuple(entries)))
    content = BytesIO()
    np.savez_compressed(
        content,
        index=np.frombuffer(index, np.uint8),
        confidences=np.concatenate([each.confidences for each in answers.values()]),
        correct=np.concatenate([each.correct for each in answers.values()]),
        classes=np.concatenate([each.classes for each in answers.values()]).astype(np.int32),
    )
    write_bytes(path, content.getvalue())


def read_answers(path: Path) -> dict[VariantKey, Answers]:
    """The answers of a file; none where there is no file, or it is of a version that did not keep classes.

    Raises `ArtefactError` where it is damaged.
    """
    if not path.exists():
        return {}
    content = read_bytes(path, ANSWERS, hint=_HINT)
    try:
        return _parsed(content)
    except NOT_NPZ as error:
        raise ArtefactError(f"`{path}` is not a valid file of answers: {error}.", hint=_HINT) from None


def _parsed(content: bytes) -> dict[VariantKey, Answers]:
    with ZipFile(BytesIO(content)) as arrays:
        if "classes.npy" not in arrays.namelist():
            return {}
        index = msgspec.json.decode(
            array_in(arrays, "index", np.uint8, ANSWERS.max_bytes).tobytes(), type=_AnswersIndex
        )
        confidences, correct, classes = (
            array_in(arrays, name, dtype, ANSWERS.max_bytes)
            for name, dtype in (("confidences", np.float32), ("correct", np.bool_), ("classes", np.int32))
        )
    rows = sum(entry.rows for entry in index.variants)
    require(len(confidences) == len(correct) == len(classes) == rows, f"its arrays must have {rows} values")
    require(bool(np.all(correct.view(np.uint8) <= 1)), "`correct` must be truth values")
    require(bool(np.all(classes >= 0)), "`classes` must be places of scores")
    found, first = {}, 0
    for entry in index.variants:
        of_entry = slice(first, first + entry.rows)
        found[VariantKey(entry.family, entry.variant)] = Answers(
            entry.engine_digest, entry.eval_digest, entry.confidence, confidences[of_entry], correct[of_entry],
            classes[of_entry],
        )  # fmt: skip
        first += entry.rows
    return found
