"""Where words go: data to stdout, talk to stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_LINE_EVERY_S = 10.0
STDOUT = "-"
TO_STDOUT = Path(STDOUT)


@dataclass(slots=True)
class Loudness:
    """Set once by the global options."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


loudness = Loudness()


def talk() -> Console:
    """The console for progress, logs and hints (stderr as it is now)."""
    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def say(message: str) -> None:
    """Tell the user what happens, unless quiet."""
    if not loudness.quiet:
        talk().print(message, markup=False)


def warn(message: str) -> None:
    """Tell the user of something that they should look at."""
    console = talk()
    console.print("warning:", style="bold yellow", end=" ")
    console.print(message, markup=False)


def show(renderable: RenderableType) -> None:
    """Print data for people on stdout."""
    Console(highlight=False, emoji=False).print(renderable)


def show_json(value: object) -> None:
    """Print one JSON document on stdout."""
    from proteus_cli.store import to_json

    sys.stdout.write(to_json(value).decode())
    sys.stdout.flush()


def save(value: object, output: Path) -> bool:
    """Write an artefact to a file, or to stdout where ``output`` is ``-``. True where it went to a file."""
    from proteus_cli.store import write_json

    if str(output) == STDOUT:
        show_json(value)
        return False
    write_json(output, value)
    return True


def report_error(message: str, hint: str) -> None:
    """``error: what and where``, a blank line, ``hint: what to do``."""
    console = talk()
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False)
    if hint:
        console.print()
        console.print("hint:", style="bold cyan", end=" ")
        console.print(hint, markup=False)


Advance = Callable[[str, float], None]
"""Called with what is done now and how much of the total (0 to 1) is behind."""


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """A bar with the time left where stderr is a terminal, else a plain line now and then.

    What goes on within something else has a bar of its own below.
    """
    if loudness.quiet:
        yield lambda _now, _done: None
    elif talk().is_terminal:
        with _bar(title) as advance:
            yield advance
    else:
        yield _plain_lines(title)


@contextmanager
def _bar(title: str) -> Iterator[Advance]:
    with _bars() as bars:
        task = bars.add_task(title, total=1.0, now="")

        def advance(now: str, done: float) -> None:
            bars.update(task, completed=done, now=now)

        try:
            yield advance
        finally:
            bars.remove_task(task)


@contextmanager
def _bars() -> Iterator["Progress"]:
    """Those that are shown now: a terminal has room for one display only."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    if _shown:
        yield _shown[-1]
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[now]}"),
    )  # fmt: skip
    with Progress(*columns, console=talk(), transient=True) as bars:
        _shown.append(bars)
        try:
            yield bars
        finally:
            _shown.clear()


_shown: "list[Progress]" = []


def _plain_lines(title: str) -> Advance:
    last_s = monotonic()

    def advance(now: str, done: float) -> None:
        nonlocal last_s
        if monotonic() - last_s >= PLAIN_LINE_EVERY_S:
            last_s = monotonic()
            say(f"{title}: {done:.0%} {now}")

    return advance
