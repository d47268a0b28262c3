"""How the variants of a family were trained, and can be trained anew: ``[family.task]`` of a catalog."""

import shlex
from string import Formatter

from proteus_cli.domain.base import Value, is_count, require

PLACEHOLDERS = ("data", "out")
"""What stands in braces in a command of the user's own: the labelled rows, and the directory for the models."""


class Task(Value, frozen=True):
    """What a family was trained on: ``data`` is the path of the labelled rows, relative to the catalog.

    ``retrain`` is a command that trains its variants anew, in place of our own recipe, for which ``seed`` and the most
    ``rows`` are.
    """

    data: str
    seed: int = 0
    rows: int | None = None
    retrain: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.data), "data of a task must be the path of an .npz with labels")
        require(is_count(self.seed, maximum=2**32 - 1), "seed of a task must be a whole number from 0 below 2^32")
        require(self.rows is None or is_count(self.rows, minimum=1), "rows of a task must be a whole number from 1")
        if self.retrain is not None:
            _require_command(self.retrain)

    def command(self, data: str, out: str) -> list[str]:
        """The words of the user's own command, with these paths in place of their names."""
        return [word.format(data=data, out=out) for word in shlex.split(self.retrain or "")]


def _require_command(text: str) -> None:
    example = 'such as "python train.py {data} {out}"'
    try:
        words = shlex.split(text)
        named = {name for word in words for _, name, _, _ in Formatter().parse(word) if name is not None}
    except ValueError as error:
        raise ValueError(f"retrain of a task is no command: {error}; {example}") from None
    require(bool(words), f"retrain of a task must be a command, {example}")
    require(
        named == set(PLACEHOLDERS), f"retrain of a task must name {{data}} and {{out}}, and nothing else, {example}"
    )
