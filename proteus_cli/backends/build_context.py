"""What a backend is given that builds engines before it runs them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from proteus_cli.backends.base import ANY_RUNNER_TAKES

OnBuildProgress = Callable[[str, float], bool]
"""Called several times a second with the current step and the fraction that is done; returns whether to go on."""

WatchBuild = Callable[[str], AbstractContextManager[OnBuildProgress]]
"""Entered for as long as the engine of that name is built."""


@contextmanager
def unwatched(_name: str) -> Iterator[OnBuildProgress]:
    yield lambda _now, _done_frac: True


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Engines are kept in the directory ``built``. New ones are built to be fastest at ``best_batch``.

    ``say`` is called with a line before an engine is built; ``watch`` follows the build, and may cancel it.
    """

    built: Path
    best_batch: int = ANY_RUNNER_TAKES
    say: Callable[[str], object] = lambda _line: None
    watch: WatchBuild = unwatched
