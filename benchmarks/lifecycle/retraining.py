"""What retraining restores of the accuracy that is lost as inputs shift, by `proteus task`; and when that is noticed.

The pictures of scikit-learn's digits are split in three, by a seed: one part trains a task, with small turns and noise;
one is a labelled stream, and one judges. Then all pictures are turned by `TURN_DEG` more. The served variant is the
most accurate one. Labels are drawn, as feedback tells them; retraining has the labelled rows of the stream.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks.tables import UNKNOWN, Aim, Table
from proteus_cli.arrays import Bools, Ints, Singles
from proteus_cli.backends.discovery import discover
from proteus_cli.backends.registry import open_backend
from proteus_cli.control.alarms import LiveAccuracy
from proteus_cli.domain.catalog import Variant
from proteus_cli.settings import read_settings
from proteus_cli.store import Workspace

SEEDS = 3
ROWS = 2_000
"""Of each of the three parts: pictures are drawn again and again, each time with a turn and noise of their own."""
TURN_DEG, JITTER_DEG, NOISE = 35.0, 10.0, 1.0  # noise in standard deviations, of pixels from 0 to 16
NOTICED_WITHIN, MIN_RESTORED = 1_000, 90.0
MODELS = "linear,forest-32,mlp-64,mlp-256"
AT_ONCE = 64


@dataclass(frozen=True)
class Shift:
    """Accuracies of the served variant on rows as they were, on turned ones, and on these after retraining."""

    seed: int
    before: float
    shifted: float
    after: float
    noticed: int | None

    @property
    def restored_percent(self) -> float:
        """Of the accuracy that was lost."""
        return 100 * (self.after - self.shifted) / (self.before - self.shifted)


def measured_all(directory: Path, seeds: int) -> list[Shift]:
    """With each of so many seeds."""
    directory.mkdir()
    return [measured(directory / str(seed), seed) for seed in range(seeds)]


def measured(root: Path, seed: int) -> Shift:
    """Train, shift, notice, train anew, by the commands of docs/lifecycle.md."""
    root.mkdir()
    train, stream, judging = _pictures(seed)
    rng = np.random.default_rng(seed)
    np.savez(root / "rows.npz", **_drawn(*train, 0.0, rng))
    np.savez(root / "new.npz", **_drawn(*stream, TURN_DEG, rng))
    usual, turned = _drawn(*judging, 0.0, rng), _drawn(*judging, TURN_DEG, rng)
    place = Workspace(root / "ws")
    of_rows = ("--data", root / "rows.npz", "--slo", "50ms", "--models", MODELS, f"--seed={seed}")
    _proteus("add", "pictures", *of_rows, place=place)
    first = _served(place)
    before, shifted = (_right(place, first, rows) for rows in (usual, turned))
    live = LiveAccuracy()
    told = enumerate(rng.permutation(shifted).tolist(), 1)
    noticed = next((count for count, each in told if live.observe(float(each), first.accuracy) and live.is_lower), None)
    _proteus("retrain", "pictures", "--data", root / "new.npz", place=place)
    after = _right(place, _served(place), turned)
    return Shift(seed, float(before.mean()), float(shifted.mean()), float(after.mean()), noticed)


def _proteus(*arguments: str | Path, place: Workspace) -> None:
    command = (sys.executable, "-m", "proteus_cli", "-q", "task", *map(str, arguments), "--budget", "30min")
    subprocess.run((*command, "-w", str(place.root)), check=True, stdout=subprocess.DEVNULL)


def _served(place: Workspace) -> Variant:
    return max(place.catalog().family("pictures").variants, key=lambda variant: variant.accuracy)


def _pictures(seed: int) -> list[tuple[Singles, Ints]]:
    """Three parts of the pictures, none of which is in two."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - the extra `train`

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    return [(digits.images[part], digits.target[part]) for part in np.array_split(order, 3)]


def _drawn(images: Singles, labels: Ints, turn_deg: float, rng: np.random.Generator) -> dict[str, Any]:
    places = rng.integers(0, len(labels), ROWS)
    turns = turn_deg + rng.uniform(-JITTER_DEG, JITTER_DEG, ROWS)
    turned = [
        ndimage.rotate(images[place], turn, reshape=False, order=1) for place, turn in zip(places, turns, strict=True)
    ]
    noisy = np.stack(turned) + rng.normal(0, NOISE, (ROWS, *images.shape[1:]))
    return {"x": noisy.astype(np.float32), "y": labels[places]}


def _right(place: Workspace, variant: Variant, rows: dict[str, Any]) -> Bools:
    device = discover(read_settings(place.root).devices)[0]
    with open_backend(device).runner(place.model_path(str(variant.onnx))) as runner:
        parts = [runner.infer({"x": rows["x"][at : at + AT_ONCE]}) for at in range(0, ROWS, AT_ONCE)]
    found: Bools = np.concatenate([part["scores"] for part in parts]).argmax(axis=1) == rows["y"]
    return found


def table(shifts: Sequence[Shift]) -> Table:
    columns = ("seed", "before", "turned", "trained anew", "restored, %", "labelled rows until noticed")
    rows = tuple(
        (
            str(each.seed), f"{each.before:.4f}", f"{each.shifted:.4f}", f"{each.after:.4f}",
            f"{each.restored_percent:.1f}", str(each.noticed or UNKNOWN),
        )
        for each in shifts
    )  # fmt: skip
    return Table(f"Accuracy on {ROWS:,} rows of pictures that nothing was trained on", columns, rows)


def aims(shifts: Sequence[Shift]) -> list[Aim]:
    noticed = max(each.noticed or ROWS + 1 for each in shifts)
    restored = min(each.restored_percent for each in shifts)
    return [
        Aim("the shift is noticed, at the latest", noticed, NOTICED_WITHIN, "labelled rows", is_most=True),
        Aim("restored of the accuracy that was lost, at least", restored, MIN_RESTORED, "%", is_most=False),
    ]
