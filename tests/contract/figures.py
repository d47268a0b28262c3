"""What the contract tests checked, in figures; `reporting.py` prints them at the end of a run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from time import perf_counter


class ContractPart(StrEnum):
    """What the contract consists of, by the path below this directory where its tests begin."""

    MADE = "test_downloads"
    API = "api/"
    BUILD = "test_build"
    RUN = "runtime/"
    WHOLE = "e2e/"


TITLES = {
    ContractPart.MADE: "what it stands on",
    ContractPart.API: "API contract",
    ContractPart.BUILD: "build half",
    ContractPart.RUN: "runtime",
    ContractPart.WHOLE: "end to end",
}

Line = tuple[ContractPart, str]
"""ContractPart, and what was checked."""

Told = Sequence[tuple[str, str, Mapping[str, int | str], int | None]]

_told: dict[Line, dict[str, int | str]] = {}
_totals: dict[Line, int] = {}


def tell(part: ContractPart, about: str, *names: str, each: int = 1, of: int | None = None) -> None:
    """These were checked, of so many; a report counts them, each once, or as many as ``each`` of them stands for."""
    _told.setdefault((part, about), {}).update(dict.fromkeys(names, each))
    if of is not None:
        _totals[part, about] = of


def note(part: ContractPart, about: str, text: str) -> None:
    """Something to be said as it is."""
    _told.setdefault((part, about), {})[text] = text


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Something that is made once and kept between runs."""
    start_s = perf_counter()
    yield
    note(ContractPart.MADE, "made now, kept for the next run", f"{what} ({perf_counter() - start_s:.0f} s)")


def sent() -> Told:
    """All that was told in this process, for another to `receive`."""
    return [(part.value, about, names, _totals.get((part, about))) for (part, about), names in _told.items()]


def receive(told: Told) -> None:
    for part, about, names, total in told:
        line = ContractPart(part), about
        _told.setdefault(line, {}).update(names)
        if total is not None:
            _totals[line] = total


def lines(part: ContractPart) -> list[tuple[str, str]]:
    """What was checked, and how many of them, or what is to be said."""
    return [(line[1], _shown(line, names)) for line, names in _told.items() if line[0] is part]


def _shown(line: Line, names: Mapping[str, int | str]) -> str:
    if texts := [text for text in names.values() if isinstance(text, str)]:
        return "; ".join(texts)
    number = sum(each for each in names.values() if isinstance(each, int))
    return f"{number} of {_totals[line]}" if line in _totals else str(number)
