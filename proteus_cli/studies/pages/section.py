"""What a kind of study has to say: sentences, tables and pictures, for the page and for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from proteus_cli.domain.base import require
from proteus_cli.studies.study import Study


@dataclass(frozen=True, slots=True)
class StudyTable:
    """Cells as text; the first column names the row. ``of_text`` are the columns of words; others are numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    of_text: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        require(all(len(row) == len(self.columns) for row in self.rows), f"a row of `{self.title}` has other columns")


@dataclass(frozen=True, slots=True)
class Picture:
    """An SVG element, what it is, and what one sees in it. ``is_wide``: it scrolls on a phone, as its labels matter.

    ``keys``: the colours that it has, and what they are, for a legend.
    """

    title: str
    about: str
    svg: str
    is_wide: bool = False
    keys: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """``findings`` are sentences that answer the question; ``how`` says how it was measured, and how sure that is.

    ``terms`` explains the words that a reader may not know.
    """

    title: str
    question: str
    findings: Sequence[str]
    how: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[StudyTable] = ()
    terms: Mapping[str, str] = field(default_factory=dict)


SectionOf = Callable[[Study], Section]
