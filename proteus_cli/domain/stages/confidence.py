"""How confident a variant is of its answers: what a query is deferred by, in profiles and while serving alike."""

from typing import Any

import numpy as np
import numpy.typing as npt

from proteus_cli.arrays import Singles

MARGIN = "margin"
"""The confidence of a family that names none: `margin`, of the output that accuracy is judged by."""
OUTPUT = "output:"
"""Before the name of an output: its value is the confidence."""
DISCRIMINATOR = "discriminator:"
"""Before the path of an ONNX file: a model that tells from the inputs and outputs of a variant how sure it is."""
DISCRIMINATOR_OUTPUT = "discriminator"
"""The output that models have which were joined with a discriminator: its value is the confidence."""


def output_of(confidence: str) -> str | None:
    """The output whose value is the confidence: ``"output:sure"`` → ``"sure"``; None for `MARGIN`.

    Raises `ValueError` for what is no confidence.
    """
    if confidence == MARGIN:
        return None
    if discriminator_of(confidence) is not None:
        return DISCRIMINATOR_OUTPUT
    name = confidence.removeprefix(OUTPUT)
    if not confidence.startswith(OUTPUT) or not name:
        raise ValueError(
            f"`{confidence}` is neither `{MARGIN}`, nor `{OUTPUT}` with the name of an output, nor `{DISCRIMINATOR}` "
            "with the path of an ONNX file"
        )
    return name


def discriminator_of(confidence: str) -> str | None:
    """``"discriminator:sure.onnx"`` → ``"sure.onnx"``, the path as the catalog has it; None where there is none."""
    path = confidence.removeprefix(DISCRIMINATOR)
    return path if confidence.startswith(DISCRIMINATOR) and path else None


def margin(scores: npt.NDArray[Any]) -> Singles:
    """The highest score less the second highest of each row; NaN where a row has fewer than two, or one that is NaN.

    ``scores``: axis 0 is the batch, all others are the scores of a row.
    """
    rows = scores.reshape(len(scores), -1) if scores.size else np.empty((len(scores), 0), np.float32)
    if rows.shape[1] < 2:  # noqa: PLR2004
        return np.full(len(rows), np.nan, np.float32)
    highest = np.partition(rows.astype(np.float32, copy=False), (-2, -1), axis=1)
    with np.errstate(invalid="ignore"):  # of two infinite scores, nobody knows the margin
        return highest[:, -1] - highest[:, -2]
