"""What a backend needs to know that builds engines before it runs them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.backends.base import ANY_RUNNER_TAKES

OnBuildProgress = Callable[[str, float], bool]
"""Told several times a second what is done now and how much is behind (0 to 1); answers whether to go on."""

WatchBuild = Callable[[str], AbstractContextManager[OnBuildProgress]]
"""Entered, with the engine's name, for as long as it is built."""


@contextmanager
def unwatched(_name: str) -> Iterator[OnBuildProgress]:
    yield lambda _now, _done_frac: True


def _say_nothing(_line: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Where engines are kept, and how those that are missing are built: best at ``best_batch``.

    ``say`` is told before one is built, and why; ``watch`` follows it, and may end it.
    """

    built: Path
    best_batch: int = ANY_RUNNER_TAKES
    say: Callable[[str], None] = _say_nothing
    watch: WatchBuild = unwatched
