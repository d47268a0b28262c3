"""Eval and training data out of samples, in the format of eval splits: `y`, and an array for each input."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

import numpy as np
import numpy.typing as npt

from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import EVAL_SPLIT
from proteus_cli.store.files import writing
from proteus_cli.store.samples.chunk import Chunk, SampledTensor, read_chunk, read_labels, write_arrays
from proteus_cli.store.samples.directory import no_samples, sample_files
from proteus_cli.units import format_size

NO_LABEL = -1
"""An unknown label in `y` of training data."""
ANSWERED = ("answer", "confidence")
"""The arrays of training data that tell what was answered."""


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Rows of samples, the oldest first: inputs by name, labels (`NO_LABEL`: none), what was answered, how sure."""

    inputs: dict[str, npt.NDArray[Any]]
    labels: Ints
    answers: Ints
    confidences: Singles


def sampled_rows(root: Path, family: str, *, since_unix_s: float, labelled_only: bool) -> SampledRows:
    """The rows of a family whose answers went out since then. Raises `ArtefactError` where there is none."""
    files, parts, size = sample_files(root, family), list[tuple[Chunk, Bools, Ints]](), 0
    told = _told([each.path for each in files if not each.is_chunk])
    chunks = [each for each in files if each.is_chunk and each.unix_s >= since_unix_s]
    for each in chunks:
        chunk = read_chunk(each.path)
        labels = _labels(chunk, told)
        wanted = np.repeat([r.unix_s >= since_unix_s for r in chunk.requests], [r.rows for r in chunk.requests])
        if labelled_only:
            wanted &= labels != NO_LABEL
        if wanted.any():
            parts.append((chunk, wanted, labels))
            size += sum(values[wanted].nbytes for values in chunk.rows)
        _require_fits(size)
    if not parts:
        older = [each.unix_s for each in files if each.is_chunk and each.unix_s < since_unix_s]
        raise _none(family, since_unix_s, older, are_unlabelled=labelled_only and bool(chunks))
    inputs = _same_inputs(family, [chunk for chunk, _, _ in parts])
    return SampledRows(
        {
            tensor.name: np.concatenate([chunk.rows[place][wanted] for chunk, wanted, _ in parts])
            for place, tensor in enumerate(inputs)
        },
        np.concatenate([labels[wanted] for _, wanted, labels in parts]),
        np.concatenate([chunk.classes[wanted] for chunk, wanted, _ in parts]),
        np.concatenate([chunk.confidences[wanted] for chunk, wanted, _ in parts]),
    )


def write_split(path: Path, rows: SampledRows, *, with_answers: bool) -> None:
    """Write an eval split, which has also what was answered if ``with_answers``. A new file is for its owner alone.

    Raises `ArtefactError`, also where an input has the name of another array.
    """
    arrays: dict[str, npt.NDArray[Any]] = {"y": rows.labels}
    if with_answers:
        arrays |= zip(ANSWERED, (rows.answers, rows.confidences), strict=True)
    taken = sorted(arrays.keys() & rows.inputs.keys())
    if taken:
        raise ArtefactError(
            f"These samples have an input `{taken[0]}`, and the file has another array of that name.",
            hint="name the input of the model otherwise: `y` are the labels, and in training data, `answer` and"
            " `confidence` what was answered",
        )
    with writing(path, 0o600) as file:
        write_arrays(file, {**arrays, **rows.inputs}, compression=ZIP_DEFLATED)


def _told(paths: Sequence[Path]) -> dict[tuple[str, int], Sequence[int | None]]:
    """Labels by run and number of the request."""
    files = map(read_labels, paths)
    return {(each.run, number): labels for each in files for number, labels in each.labels.items()}


def _labels(chunk: Chunk, told: dict[tuple[str, int], Sequence[int | None]]) -> Ints:
    """Labels by row of a chunk. Labels that do not fit their request count as unknown."""
    found: list[int] = []
    for request in chunk.requests:
        labels = told.get((chunk.run, request.number), ())
        fits = len(labels) == request.rows
        found += [NO_LABEL if label is None else label for label in labels] if fits else [NO_LABEL] * request.rows
    return np.array(found, np.int64)


def _same_inputs(family: str, chunks: Sequence[Chunk]) -> tuple[SampledTensor, ...]:
    first, *others = chunks
    if any(each.inputs != first.inputs for each in others):
        raise ArtefactError(
            f"The inputs of `{family}` have changed between its samples.", hint="leave the older out with `--since`"
        )
    return first.inputs


def _require_fits(size: int) -> None:
    if size > EVAL_SPLIT.max_bytes:
        raise ArtefactError(
            f"These samples are more than {format_size(EVAL_SPLIT.max_bytes)}, the most of an eval split.",
            hint="leave the older out with `--since`, or those without labels with `--labelled-only`",
        )


def _none(family: str, since_unix_s: float, older_unix_s: Sequence[float], *, are_unlabelled: bool) -> ArtefactError:
    if are_unlabelled:
        return ArtefactError(
            f"No sample of `{family}` has a label.",
            hint="tell labels of requests with an id, to a server with `--feedback`",
        )
    if older_unix_s:
        return ArtefactError(
            f"There are no samples of `{family}` since {_time(since_unix_s)}: the last ones are of"
            f" {_time(max(older_unix_s))}.",
            hint="export from an earlier time on, by a longer `--since`",
        )
    return no_samples(family)


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(sep=" ", timespec="seconds")
