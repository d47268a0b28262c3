"""What a backend needs to know that builds engines before it runs them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.backends.base import ANY_RUNNER_TAKES


def _go_on(_now: str, _done_frac: float) -> bool:
    return True


def _say_nothing(_line: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Engines:
    """Where engines are kept, and how those that are missing are built: best at ``best_batch``.

    ``say`` is told before one is built, and why; ``progress`` as it is built, and answers whether to go on.
    """

    built: Path
    best_batch: int = ANY_RUNNER_TAKES
    say: Callable[[str], None] = _say_nothing
    progress: Callable[[str, float], bool] = _go_on
