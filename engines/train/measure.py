"""Measure every variant of the catalog on one core and print the table of the README."""

from __future__ import annotations

import time
import tomllib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from fit import MODELS, accuracy, open_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import onnxruntime

ENGINES = MODELS.parent
BATCHES = (1, 8, 32)
BUDGET_S = 1.0
ROW_TOLERANCE = 1e-4


def main() -> None:
    print("| variant | parameters | ONNX bytes | accuracy |", " | ".join(f"ms/sample, batch {n}" for n in BATCHES), "|")
    print("|---|" + "---:|" * (3 + len(BATCHES)))
    catalog = tomllib.loads((ENGINES / "catalog.toml").read_text())
    for family in catalog["family"]:
        for cells in measured_rows(family):
            print("|", " | ".join(cells), "|", flush=True)


def measured_rows(family: dict[str, Any]) -> Iterator[list[str]]:
    """The table's cells for each variant of a family; raises when the catalog declares another accuracy."""
    with np.load(ENGINES / family["eval"]) as data:
        x, y = data["x"].astype(np.float32), data["y"]
    for variant in family["variant"]:
        path = ENGINES / variant["onnx"]
        session = open_model(path)
        check_rows_are_independent(session, x)
        measured = round(accuracy(session, x, y), 4)
        if measured != variant["accuracy"]:
            raise SystemExit(f"{variant['name']}: measured accuracy {measured}, declared {variant['accuracy']}")
        times = [f"{ms_per_sample(session, x[:n]):.3f}" for n in BATCHES]
        yield [variant["name"], f"{parameters(path):,}", f"{path.stat().st_size:,}", f"{measured:.4f}", *times]


def check_rows_are_independent(session: onnxruntime.InferenceSession, x: np.ndarray) -> None:
    """A row must score the same in whatever batch it is."""
    (together,) = session.run(["scores"], {"input": x[:64]})
    for size in (1, 3):
        (few,) = session.run(["scores"], {"input": x[:size]})
        if np.abs(few - together[:size]).max() >= ROW_TOLERANCE:
            raise SystemExit(f"scores depend on the batch size ({size} or 64)")


def parameters(path: Path) -> int:
    return sum(int(np.prod(weight.dims)) for weight in onnx.load(path).graph.initializer)


def ms_per_sample(session: onnxruntime.InferenceSession, x: np.ndarray) -> float:
    """Median time of a batch divided by its size, over about `BUDGET_S` of runs."""
    took_s: list[float] = []
    end_s = time.perf_counter() + BUDGET_S
    while len(took_s) < 10 or time.perf_counter() < end_s:
        started_s = time.perf_counter()
        session.run(["scores"], {"input": x})
        took_s.append(time.perf_counter() - started_s)
    return 1000 * float(np.median(took_s)) / len(x)


if __name__ == "__main__":
    main()
