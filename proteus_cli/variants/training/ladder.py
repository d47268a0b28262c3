"""The kinds of models that are trained on labelled rows, in order of rising cost.

The name of a variant joins its task and its kind: ``wine-forest-32``. Measurements decide which variants are kept.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from proteus_cli.errors import BackendUnavailable, UsageError

LADDER = ("linear", "forest-8", "mlp-16", "forest-32", "mlp-64", "boost-32", "forest-128", "mlp-256", "mlp-512-512")
"""In the order in which they are trained: the cheapest first, as the time for training is limited."""

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
