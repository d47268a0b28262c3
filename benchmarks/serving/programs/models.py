"""The models as every peer runs them: ONNX Runtime with one thread. Peers find them by environment variables."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

MAX_BATCH = 32
DELAY_S = 0.002
Floats = npt.NDArray[np.float32]

SHAPES: Mapping[str, tuple[int, ...]] = {
    "tiny": (64,),
    "cnn": (1, 64, 64),
    "image": (3, 224, 224),
    "wide": (1, 64, 64),
}
"""The shape of one row of each family's input ``x``; the output ``y`` is 10 scores."""
SCORES = 10


class Model:
    """One ONNX file, loaded. The directory is ``$BENCH_MODELS``."""

    def __init__(self, family: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = Path(os.environ["BENCH_MODELS"]) / f"{family}.onnx"
        self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.shape = SHAPES[family]

    def __call__(self, rows: Floats) -> Floats:
        """Scores [rows, 10] of a batch."""
        scores: Floats = self._session.run(None, {"x": rows})[0]
        return scores

    def row(self, values: Any) -> Floats:
        """One row from a list of numbers."""
        return np.asarray(values, np.float32).reshape(self.shape)

    def raw_row(self, body: bytes) -> Floats:
        """One row from the bytes of its numbers, not copied."""
        return np.frombuffer(body, np.float32).reshape(self.shape)


def routes() -> list[tuple[str, str]]:
    """(family, json or binary) of each route to offer: ``$BENCH_ROUTES`` is like ``tiny:json,cnn:binary``."""
    pairs = (route.partition(":") for route in os.environ["BENCH_ROUTES"].split(","))
    return [(family, kind) for family, _, kind in pairs]
