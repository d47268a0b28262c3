"""Labelled rows for tests of training: classes around centres of their own."""

from pathlib import Path
from typing import Any

import numpy as np

from proteus_cli.arrays import Ints, Singles

CENTRES = 4.0 * np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]], np.float32)


def blobs(per_class: int, *, seed: int = 0, moved_by: float = 0.0) -> tuple[Singles, Ints]:
    """So many rows of each of three classes, of four numbers each; all are ``moved_by`` so much."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(CENTRES)), per_class)
    x = CENTRES[y] + rng.normal(0, 1, (len(y), 4)) + moved_by
    return x.astype(np.float32), y


def save_rows(path: Path, x: Singles, y: Ints, name: str = "x") -> Path:
    arrays: dict[str, Any] = {name: x, "y": y}
    np.savez(path, **arrays)
    return path


def save_blobs(path: Path, per_class: int, *, seed: int = 0, moved_by: float = 0.0) -> Path:
    return save_rows(path, *blobs(per_class, seed=seed, moved_by=moved_by))
