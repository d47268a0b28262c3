"""Trains the kinds of the ladder in a process of their own (`fitting`), as far as time and memory go."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from proteus_cli import store
from proteus_cli.errors import TrainingFailed
from proteus_cli.progress import StepCounter
from proteus_cli.variants.training.arrays import LabelledRows
from proteus_cli.variants.training.ladder import LADDER
from proteus_cli.variants.training.processes import Limits, require_success, run_command

FITTING = "proteus_cli.variants.training.fitting"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
KEPT_LINES = 20


def train_ladder(
    rows: LabelledRows, kinds: Sequence[str], seed: int, directory: Path, limits: Limits, steps: StepCounter
) -> dict[str, Path]:
    """The models by their kinds, in ``directory``; where the time ends, those that were done by then.

    ``steps`` begins one for each kind. Raises `TrainingFailed` where there is none, or one fails.
    """
    directory = directory.absolute()  # where the process runs
    source = directory / "rows.npz"
    store.write_bytes(source, rows.npz())
    said: list[str] = []

    def hear(line: str) -> None:
        if line in LADDER:
            steps.begin(f"training {line}")
        elif line:
            said.append(line)
            del said[:-KEPT_LINES]

    command = [sys.executable, "-P", "-m", FITTING, str(source), str(directory), str(seed), *kinds]
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    ended = run_command(command, directory, limits, hear, settings=ONE_THREAD | {"PYTHONPATH": paths})
    models = {kind: directory / f"{kind}.onnx" for kind in kinds if (directory / f"{kind}.onnx").is_file()}
    if not (ended.is_late and models):
        told = f", and said: {said[-1]}" if said else ""
        try:
            require_success(ended, "The training", limits)
        except TrainingFailed as error:
            raise TrainingFailed(error.message.removesuffix(".") + told + ".", hint=error.hint) from error
    return models
