"""Texts read token by token; what is wrong is an error that points at the place."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, NoReturn

from proteus_cli.errors import printable

LONGEST_TEXT = 2000
"""Characters; the canonical text of any condition within the bounds of `parser.py` has fewer."""
_EXCERPT = 36
"""Characters that an error shows on either side of what is wrong."""


class ConditionError(ValueError):
    """A text is no condition. Its message has the problem, the place in the text with a ``^`` below it, and a hint."""

    def __init__(self, problem: str, text: str, column: int, *, hint: str) -> None:
        self.problem, self.column, self.hint = printable(problem), column, hint
        super().__init__(f"{self.problem}, at column {column + 1}:\n{_pointing(text, column)}\nhint: {hint}")


TokenKind = Literal["word", "number", "operator", "(", ")", "end", "unknown"]


class Token(NamedTuple):
    """A piece of a text, and the column where it begins, from 0."""

    kind: TokenKind
    text: str
    column: int

    @property
    def named(self) -> str:
        """As an error calls it."""
        return "the end" if self.kind == "end" else f"`{self.text}`"


class TokenReader:
    """Has read the tokens before ``next``; ``what`` the text is meant to be. One that is too long is an error."""

    def __init__(self, text: str, what: str) -> None:
        if len(text) > LONGEST_TEXT:
            problem = f"a {what} of {len(text):,} characters"
            raise ConditionError(problem, text, LONGEST_TEXT, hint=f"write at most {LONGEST_TEXT:,} characters")
        self._text = text
        self._tokens = _tokens(text)
        self.next = next(self._tokens)

    def take(self) -> Token:
        """The next token, and go on to the one behind it."""
        taken = self.next
        if taken.kind != "end":
            self.next = next(self._tokens)
        return taken

    def took(self, word: str) -> bool:
        """Whether the next token is this word, which is taken then."""
        is_next = self.next.kind == "word" and self.next.text == word
        if is_next:
            self.take()
        return is_next

    def fail(self, problem: str, *, hint: str, at: Token | None = None) -> NoReturn:
        """Raise `ConditionError` that points at a token, else at the next one."""
        raise ConditionError(problem, self._text, (at or self.next).column, hint=hint)


_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?:\s*(?:%|(?!(?:and|or)\b)[A-Za-zµ]+))?)"
    r"|(?P<word>[A-Za-z_][A-Za-z_0-9]*)|(?P<operator>[<>=!&|]+)|(?P<open>\()|(?P<close>\))|(?P<unknown>\S)|\Z)"
)
_KINDS: dict[str | None, TokenKind] = {
    "number": "number", "word": "word", "operator": "operator", "open": "(", "close": ")", "unknown": "unknown",
    None: "end",
}  # fmt: skip


def _tokens(text: str) -> Iterator[Token]:
    position = 0
    while match := _TOKEN.match(text, position):
        kind = _KINDS[match.lastgroup]
        yield Token(kind, match[match.lastgroup] if match.lastgroup else "", _start(match, text))
        if kind == "end":
            return
        position = match.end()


def _start(match: re.Match[str], text: str) -> int:
    return match.start(match.lastgroup) if match.lastgroup else len(text.rstrip())


def _pointing(text: str, column: int) -> str:
    """What is around a column, and a ``^`` below it; what is not printable takes one column, too."""
    begin, end = max(column - _EXCERPT, 0), column + _EXCERPT
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    shown = "".join(each if each.isprintable() else "·" for each in text[begin:end])
    return f"  {before}{shown}{after}\n  {' ' * (len(before) + column - begin)}^"
