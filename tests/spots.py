"""A workspace with a task that a command of the user's own trains: in no time, and as well as can be."""

import sys
from pathlib import Path

from labelled import CENTRES, blobs, save_rows
from nearest_centres import save_centres

TRAIN = """
import sys
sys.path.append("TESTS")
import numpy as np
from nearest_centres import save_centres
with np.load(sys.argv[1]) as rows:
    x, y = rows["x"], rows["y"]
for name in ("spots-s", "spots-l"):
    save_centres(sys.argv[2] + "/" + name + ".onnx", [x[y == label].mean(0) for label in range(3)])
print("trained on", len(y), "rows")
""".replace("TESTS", str(Path(__file__).parent))


def make_spots(root: Path) -> Path:
    """Two variants that are alike, their eval split, and the labelled rows ``rows.npz`` beside the workspace."""
    for name in ("spots-s", "spots-l"):
        (root / f"engines/models/spots/{name}/1").mkdir(parents=True)
        save_centres(root / f"engines/models/spots/{name}/1/model.onnx", CENTRES)
    save_rows(root / "engines/models/spots/eval.npz", *blobs(40, seed=1))
    save_rows(root.parent / "rows.npz", *blobs(40, seed=2))
    (root / "train.py").write_text(TRAIN)
    write_catalog(root, f"{sys.executable} train.py {{data}} {{out}}")
    return root


def write_catalog(root: Path, command: str) -> None:
    data = root.parent / "rows.npz"
    (root / "engines/catalog.toml").write_text(
        f"""format = 1

[[family]]
name = "spots"  # of all kinds
slo = "10s"
eval = "models/spots/eval.npz"

[family.task]
data = "{data}"
retrain = {command!r}

[[family.variant]]
name = "spots-s"  # the small one
onnx = "models/spots/spots-s/1/model.onnx"
accuracy = 0.9
estimated = true

[[family.variant]]
name = "spots-l"
onnx = "models/spots/spots-l/1/model.onnx"
accuracy = 0.9
"""
    )
