"""Calibration rows: rows without labels, similar to the eval split but not in it."""

from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from proteus_cli.backends.base import NamedArrays
from proteus_cli.backends.onnxruntime import open_session
from proteus_cli.errors import ArtefactError
from proteus_cli.store.models.onnx_files import inputs_of, read_graph
from proteus_cli.store.models.prepared_models import own_input
from proteus_cli.units import counted

MAX_ROWS = 512
"""The first rows of a file are used to quantise: ranges hardly change with more."""
BATCH = 8


def require_others(rows: NamedArrays, labelled: NamedArrays, name: str) -> None:
    """Raise `ArtefactError` where rows of the file ``name`` are in the eval split: the accuracy would be flattered."""
    if shared := len(_digests(rows) & _digests(labelled)):
        raise ArtefactError(
            f"`{name}` shares {counted(shared, 'row')} with the eval split.", hint="calibrate on other rows"
        )


def _digests(rows: NamedArrays) -> set[bytes]:
    columns = [rows[name] for name in sorted(rows)]
    return {blake2b(b"".join(values.tobytes() for values in row)).digest() for row in zip(*columns, strict=True)}


def in_batches(rows: NamedArrays) -> list[NamedArrays]:
    """The first `MAX_ROWS` rows, `BATCH` at a time."""
    count = min(MAX_ROWS, len(next(iter(rows.values()))))
    return [
        {name: values[first : min(first + BATCH, count)] for name, values in rows.items()}
        for first in range(0, count, BATCH)
    ]


def behind_preparation(onnx: Any, model: Path, prepared: Path, rows: NamedArrays) -> NamedArrays:
    """The first `MAX_ROWS` rows as a model itself takes them, behind the preparation of its family's input."""
    loaded = read_graph(onnx, prepared, with_weights=True)
    inner = own_input(loaded.graph)
    loaded.graph.output.append(onnx.helper.make_empty_tensor_value_info(inner))
    with TemporaryDirectory() as directory:
        file = Path(directory) / "with_inner.onnx"
        file.write_bytes(loaded.SerializeToString())
        session = open_session(file)
        found = [session.run([inner], batch)[0] for batch in in_batches(rows)]
    own = inputs_of(read_graph(onnx, model).graph)[0].name
    return {own: np.concatenate(found)}
