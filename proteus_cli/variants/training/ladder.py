"""The kinds of models that are trained on labelled rows, of rising cost.

A variant is named for its task and its kind: ``wine-forest-32``. Which of them are worth their time is measured.
"""

from collections.abc import Sequence
from importlib.util import find_spec

from proteus_cli.errors import BackendUnavailable, UsageError
from proteus_cli.variants.training.layout import layout_of

LADDER = ("linear", "forest-8", "mlp-16", "forest-32", "mlp-64", "boost-32", "forest-128", "mlp-256", "mlp-512-512")
"""For rows of any shape, in the order in which they are trained: what takes little time first, as that is limited."""

CONVNETS = ("cnn-8", "cnn-16", "cnn-32")
"""For pictures and signals, trained last; they need PyTorch, which the extra `torch` installs."""

KINDS = LADDER + CONVNETS


def chosen(text: str | None) -> tuple[str, ...] | None:
    """``"linear,mlp-64"`` → kinds in the order of the ladder; None: those that fit the rows. Raises `UsageError`."""
    if text is None:
        return None
    wanted = [each.strip() for each in text.split(",")]
    for each in wanted:
        if each not in KINDS:
            raise UsageError(f"There is no kind of model `{each}`.", hint=f"there are: {', '.join(KINDS)}")
    return tuple(each for each in KINDS if each in wanted)


def for_rows(kinds: Sequence[str] | None, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The kinds to train on rows of that shape; None: all that fit them, and whose packages are installed.

    Raises `UsageError` where convolutional nets are asked for, and don't fit.
    """
    is_spatial = layout_of(shape) is not None
    if kinds is None:
        return LADDER + CONVNETS if is_spatial and has_torch() else LADDER
    unfit = [] if is_spatial else [kind for kind in kinds if kind in CONVNETS]
    if unfit:
        raise UsageError(
            f"`{unfit[0]}` is for pictures and signals, and rows of shape {list(shape)} are neither.",
            hint=f"for these rows there are: {', '.join(LADDER)}",
        )
    return tuple(kinds)


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return find_spec("torch") is not None


def require_packages(kinds: Sequence[str] | None) -> None:
    """Raise `BackendUnavailable` without the packages of the extra `train`, and `torch` for convolutional nets."""
    needed = {"scikit-learn": "sklearn", "skl2onnx": "skl2onnx"}
    if any(kind in CONVNETS for kind in kinds or ()):
        needed["torch"] = "torch"
    missing = [package for package, module in needed.items() if find_spec(module) is None]
    if missing:
        raise BackendUnavailable(
            f"The package `{missing[0]}` is needed to train models, and is not installed.",
            hint=f"pip install {' '.join(missing)}",
        )


def variant_name(task: str, kind: str) -> str:
    """What a variant of a task is called in the catalog."""
    return f"{task}-{kind}"


def kinds_of(task: str, variants: Sequence[str]) -> tuple[str, ...]:
    """The kinds of a task's variants, in the order of the ladder; variants that others made have none."""
    return tuple(kind for kind in KINDS if variant_name(task, kind) in variants)
