"""The recipes of the models of a task, and training them in a process of their own (`fitting`).

The ladder has the kinds of models, in order of rising cost. The name of a variant joins its task and its kind:
``wine-forest-32``. Measurements decide which variants are kept.
"""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from proteus_cli import store
from proteus_cli.errors import BackendUnavailable, TrainingFailed, UsageError
from proteus_cli.progress import StepCounter
from proteus_cli.variants.training.arrays import LabelledRows
from proteus_cli.variants.training.ladder import LADDER
from proteus_cli.variants.training.processes import Limits, require_success, run_command

PACKAGES = {"scikit-learn": "sklearn", "skl2onnx": "skl2onnx"}
"""The packages that training needs, each with its module."""


def chosen(text: str | None) -> tuple[str, ...]:
    """``"linear,mlp-64"`` → kinds in the order of the ladder; None: all. Raises `UsageError`."""
    if text is None:
        return LADDER
    wanted = [each.strip() for each in text.split(",")]
    for each in wanted:
        if each not in LADDER:
            raise UsageError(f"There is no kind of model `{each}`.", hint=f"there are: {', '.join(LADDER)}")
    return tuple(each for each in LADDER if each in wanted)


def require_packages() -> None:
    """Raise `BackendUnavailable` without the packages of the extra `train`."""
    missing = [package for package, module in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise BackendUnavailable(
            f"The package `{missing[0]}` is needed to train models, and is not installed.",
            hint=f"pip install {' '.join(missing)}",
        )


def variant_name(task: str, kind: str) -> str:
    """The name of a task's variant in the catalog."""
    return f"{task}-{kind}"


def kinds_of(task: str, variants: Sequence[str]) -> tuple[str, ...]:
    """The kinds of a task's variants, in the order of the ladder; variants from other sources have none."""
    return tuple(kind for kind in LADDER if variant_name(task, kind) in variants)


# --- training

FITTING = "proteus_cli.variants.training.fitting"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
KEPT_LINES = 20


def train_ladder(
    rows: LabelledRows, kinds: Sequence[str], seed: int, directory: Path, limits: Limits, steps: StepCounter
) -> dict[str, Path]:
    """The models by their kinds, in ``directory``; if the time ends, the finished ones.

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
