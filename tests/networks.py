"""Models as users bring them: with a fixed batch, with convolutions, with attention."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import helper
from tiny import CLASSES, save_model, tensor

CHANNELS = 8


def conv_net(path: Path, *, size: int = 8, batch: int | str = "n", channels: int = CHANNELS, seed: int = 0) -> Path:
    """``image`` [batch, 3, size, size] → convolution, mean of each channel → ``scores`` [batch, 3].

    With a fixed batch the `Reshape` before the last layer repeats it, as exporters do.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, npt.NDArray[Any]] = {
        "filters": rng.standard_normal((channels, 3, 3, 3)).astype(np.float32),
        "w": rng.standard_normal((channels, CLASSES)).astype(np.float32),
        "flat": np.array([batch if isinstance(batch, int) else -1, channels], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["h"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["mean"]),
        helper.make_node("Reshape", ["mean", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "w"], ["scores"]),
    ]
    return save_model(
        path,
        nodes,
        inputs=[tensor("image", [batch, 3, size, size])],
        outputs=[tensor("scores", [batch, CLASSES])],
        weights=weights,
    )


def mixing_rows(path: Path, *, batch: int) -> Path:
    """A model that can't take another batch: each row of ``scores`` depends on all rows of ``x`` [batch, 3]."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["scores"]),
    ]
    ends = ([tensor(name, [batch, CLASSES])] for name in ("x", "scores"))
    return save_model(path, nodes, inputs=next(ends), outputs=next(ends))
