"""The kinds of models that are trained on labelled rows, of rising cost.

A variant is named for its task and its kind: ``wine-forest-32``. Which of them are worth their time is measured.
"""

from collections.abc import Sequence

from proteus_cli.errors import UsageError

LADDER = ("linear", "forest-8", "mlp-16", "forest-32", "mlp-64", "boost-32", "forest-128", "mlp-256", "mlp-512-512")
"""In the order in which they are trained: what takes little time first, as the time is limited."""


def chosen(text: str | None) -> tuple[str, ...]:
    """``"linear,mlp-64"`` → kinds in the order of the ladder; None: all. Raises `UsageError`."""
    if text is None:
        return LADDER
    wanted = [each.strip() for each in text.split(",")]
    for each in wanted:
        if each not in LADDER:
            raise UsageError(f"There is no kind of model `{each}`.", hint=f"there are: {', '.join(LADDER)}")
    return tuple(each for each in LADDER if each in wanted)


def variant_name(task: str, kind: str) -> str:
    return f"{task}-{kind}"


def kinds_of(task: str, variants: Sequence[str]) -> tuple[str, ...]:
    """The kinds of a task's variants, in the order of the ladder; variants that others made have none."""
    return tuple(kind for kind in LADDER if variant_name(task, kind) in variants)
