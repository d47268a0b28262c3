"""The tasks of a workspace, with the versions of their variants."""

import glob
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.domain.catalog import Family, Variant
from proteus_cli.store import Workspace


@dataclass(frozen=True, slots=True)
class RegisteredVariant:
    """A variant in the catalog; ``version``: 0 where the directory of its model is no number; ``versions``: all."""

    variant: str
    accuracy: float
    onnx: str
    version: int
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RegisteredTask:
    """A task in the catalog; ``retrain`` is the user's own command, where there is one."""

    family: str
    slo: str
    prefer: str
    data: str
    seed: int
    rows: int | None
    retrain: str | None
    eval: str | None
    variants: tuple[RegisteredVariant, ...]


def registered(workspace: Workspace, family: Family) -> RegisteredTask | None:
    """A task of the catalog with its versions in the workspace; None if the family is no task."""
    task = family.task
    if task is None:
        return None
    variants = tuple(_variant(workspace, each, each.onnx) for each in family.variants if each.onnx is not None)
    return RegisteredTask(
        family.name,
        family.slo,
        family.policy.prefer,
        task.data,
        task.seed,
        task.rows,
        task.retrain,
        family.eval,
        variants,
    )  # fmt: skip


def _variant(workspace: Workspace, variant: Variant, onnx: str) -> RegisteredVariant:
    model = workspace.model_path(onnx)
    number = model.parent.name
    is_number = number.isdecimal()
    versions = versions_in(model.parent.parent, model.name) if is_number else ()
    return RegisteredVariant(variant.name, variant.accuracy, onnx, int(number) if is_number else 0, versions)


def versions_in(directory: Path, name: str) -> tuple[int, ...]:
    """The versions that are there of a model, ascending: directories named by a number, with a file of that name."""
    numbers = (path.parent.name for path in directory.glob(f"*/{glob.escape(name)}"))
    return tuple(sorted(int(number) for number in numbers if number.isdecimal()))
