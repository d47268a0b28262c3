"""Output: data on stdout, messages and progress on stderr. No text is markup: names and paths may have brackets."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from proteus_cli.errors import printable
from proteus_cli.progress import Advance

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

    from proteus_cli.serving.logs import LogLevel

PLAIN_LINE_EVERY_S = 10.0
DASH = Path("-")  # as the name of a file: stdin, or stdout


@dataclass(slots=True)
class Loudness:
    """How much is printed; set once, by the global options."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False


loudness = Loudness()


def log_level() -> "LogLevel":
    """The level that ``-v`` and ``-q`` ask for."""
    from proteus_cli.serving.logs import LogLevel

    return LogLevel.DEBUG if loudness.verbose else LogLevel.WARNING if loudness.quiet else LogLevel.INFO


def _stderr() -> "Console":
    """A console on what is stderr now."""
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False, emoji=False, markup=False)


def say(message: str) -> None:
    """Print a message for people, unless quiet."""
    if not loudness.quiet:
        _stderr().print(printable(message))


def warn(message: str) -> None:
    """Print a warning, also if quiet."""
    _labelled("warning:", "bold yellow", message)


def report_error(message: str, hint: str) -> None:
    """Print ``error: what and where``, a blank line, ``hint: what to do``."""
    _labelled("error:", "bold red", message)
    if hint:
        _stderr().print()
        _labelled("hint:", "bold cyan", hint)


def _labelled(label: str, style: str, message: str) -> None:
    console = _stderr()
    console.print(label, style=style, end=" ")
    console.print(printable(message))


def show(renderable: "RenderableType") -> None:
    """Print data for people on stdout."""
    from rich.console import Console

    Console(highlight=False, emoji=False, markup=False).print(renderable)


def show_json(value: object) -> None:
    """Print one JSON document on stdout."""
    from proteus_cli.store import to_json

    sys.stdout.write(to_json(value).decode())
    sys.stdout.flush()


def deliver(value: object, *, json: bool, tables: "Iterable[RenderableType]" = (), lines: Iterable[str] = ()) -> None:
    """Print a result: as JSON, or for people, the tables as data and then the lines as what there is to say."""
    if json:
        show_json(value)
        return
    for each in tables:
        show(each)
    for line in lines:
        say(line)


def save(value: object, output: Path) -> None:
    """Write an artefact to a file, or to stdout if ``output`` is ``-``."""
    from proteus_cli.store import write_json

    if output == DASH:
        show_json(value)
    else:
        write_json(output, value)


@contextmanager
def writing(output: Path) -> Iterator[Callable[[str], object]]:
    """A function that writes text to a file, whole or not at all, or to stdout if ``output`` is ``-``."""
    from proteus_cli.store import writing_text

    if output == DASH:
        yield sys.stdout.write
        sys.stdout.flush()
        return
    with writing_text(output) as write:
        yield write


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """A bar with the remaining time if stderr is a terminal, else a line every `PLAIN_LINE_EVERY_S`.

    Progress within progress has a bar of its own below.
    """
    if loudness.quiet:
        yield lambda _now, _done: None
    elif _stderr().is_terminal:
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
    """The only display of the terminal: the current one, or a new one."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    if _shown:
        yield _shown[-1]
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[now]}", markup=False),
    )  # fmt: skip
    with Progress(*columns, console=_stderr(), transient=True) as bars:
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
