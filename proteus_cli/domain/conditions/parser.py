"""The text of a condition → a `Condition`, by recursive descent; what is wrong is an error that points at it."""

import re
from collections.abc import Collection, Iterator
from typing import Literal, NamedTuple, NoReturn

from proteus_cli.domain.conditions.condition import OPERATORS, Comparison, Condition, Operator, all_of, any_of
from proteus_cli.domain.conditions.metrics import SCALES, Metric, metric_named
from proteus_cli.errors import UsageError, printable

LONGEST_TEXT = 2000
"""Characters; the canonical text of any condition within the other two bounds has fewer."""
MOST_COMPARISONS = 24
DEEPEST = 16
"""Parentheses within each other."""

_HINT_NUMBER_FIRST = "write the metric first: `confidence >= 0.8`"
_HINT_OPERATORS = f"operators: {' '.join(OPERATORS)}"
_EXCERPT = 36
"""Characters that an error shows on either side of what is wrong."""


class ConditionError(ValueError):
    """A text is no condition. Its message has the problem, the place in the text with a ``^`` below it, and a hint."""

    def __init__(self, problem: str, text: str, column: int, *, hint: str) -> None:
        self.problem, self.column, self.hint = printable(problem), column, hint
        super().__init__(f"{self.problem}, at column {column + 1}:\n{_pointing(text, column)}\nhint: {hint}")


def parse(text: str, known: Collection[Metric] = tuple(Metric)) -> Condition:
    """Raises `ConditionError`, whose hint has the ``known`` metrics where a text has another word."""
    if len(text) > LONGEST_TEXT:
        problem = f"a condition of {len(text):,} characters"
        raise ConditionError(problem, text, LONGEST_TEXT, hint=f"write at most {LONGEST_TEXT:,} characters")
    return _Parser(text, known).whole()


Kind = Literal["word", "number", "operator", "(", ")", "end", "unknown"]


class _Token(NamedTuple):
    kind: Kind
    text: str
    column: int


_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?:\s*(?:%|(?!(?:and|or)\b)[A-Za-zµ]+))?)"
    r"|(?P<word>[A-Za-z_][A-Za-z_0-9]*)|(?P<operator>[<>=!&|]+)|(?P<open>\()|(?P<close>\))|(?P<unknown>\S)|\Z)"
)
_KINDS: dict[str | None, Kind] = {
    "number": "number", "word": "word", "operator": "operator", "open": "(", "close": ")", "unknown": "unknown",
    None: "end",
}  # fmt: skip


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while match := _TOKEN.match(text, position):
        kind = _KINDS[match.lastgroup]
        yield _Token(kind, match[match.lastgroup] if match.lastgroup else "", _start(match, text))
        if kind == "end":
            return
        position = match.end()


def _start(match: re.Match[str], text: str) -> int:
    return match.start(match.lastgroup) if match.lastgroup else len(text.rstrip())


class _Parser:
    """Has read the tokens before ``next``, and ``comparisons`` in them; is inside of ``depth`` parentheses."""

    def __init__(self, text: str, known: Collection[Metric]) -> None:
        self._text, self._known = text, known
        self._tokens = _tokens(text)
        self._next = next(self._tokens)
        self._comparisons = 0
        self._depth = 0

    def whole(self) -> Condition:
        condition = self._any_of()
        if self._next.kind == ")":
            self._fail("a `)` that closes nothing", hint="leave it out, or write a `(` before it")
        if self._next.kind != "end":
            self._fail(
                f"`{self._next.text}` where the condition should go on", hint="join comparisons by `and` or `or`"
            )
        return condition

    def _any_of(self) -> Condition:
        parts = [self._all_of()]
        while self._took("or"):
            parts.append(self._all_of())
        return any_of(parts)

    def _all_of(self) -> Condition:
        parts = [self._operand()]
        while self._took("and"):
            parts.append(self._operand())
        return all_of(parts)

    def _operand(self) -> Condition:
        if self._next.kind != "(":
            return self._comparison()
        opened = self._take()
        self._depth += 1
        if self._depth > DEEPEST:
            self._fail(f"more than {DEEPEST} parentheses within each other", hint="write fewer", at=opened)
        condition = self._any_of()
        if self._take().kind != ")":
            self._fail("a `(` that nothing closes", hint="write a `)` at its end", at=opened)
        self._depth -= 1
        return condition

    def _comparison(self) -> Comparison:
        at = self._next
        self._comparisons += 1
        if self._comparisons > MOST_COMPARISONS:
            self._fail("one comparison too many", hint=f"write at most {MOST_COMPARISONS}")
        metric = self._metric()
        operator = self._operator(after=at)
        return Comparison(metric, operator, self._quantity(metric, operator))

    def _metric(self) -> Metric:
        word = self._next
        metric = metric_named(word.text) if word.kind == "word" else None
        if metric is None:
            problem = f"no metric `{word.text}`" if word.kind == "word" else f"{_named(word)} where a metric should be"
            hint = (
                _HINT_NUMBER_FIRST
                if word.kind == "number"
                else f"metrics: {', '.join(each for each in Metric if each in self._known)}"
            )
            self._fail(problem, hint=hint)
        self._take()
        return metric

    def _operator(self, *, after: _Token) -> Operator:
        found = self._next
        if found.kind != "operator":
            self._fail(f"{_named(found)} where `{after.text}` should be compared", hint=_HINT_OPERATORS)
        operator = next((each for each in OPERATORS if each == found.text), None)
        if operator is None:
            self._fail(f"no operator `{found.text}`", hint=_HINT_OPERATORS)
        self._take()
        return operator

    def _quantity(self, metric: Metric, operator: Operator) -> float:
        quantity = self._next
        scale = SCALES[metric]
        if quantity.kind != "number":
            hint = f"{metric} is compared with {scale.quantity}"
            self._fail(f"{_named(quantity)} where a number should be after `{operator}`", hint=hint)
        try:
            value = scale.read(quantity.text)
        except UsageError as error:
            self._fail(error.message.rstrip("."), hint=error.hint)
        self._take()
        return value

    def _took(self, word: str) -> bool:
        is_next = self._next.kind == "word" and self._next.text == word
        if is_next:
            self._take()
        return is_next

    def _take(self) -> _Token:
        taken = self._next
        if taken.kind != "end":
            self._next = next(self._tokens)
        return taken

    def _fail(self, problem: str, *, hint: str, at: _Token | None = None) -> NoReturn:
        raise ConditionError(problem, self._text, (at or self._next).column, hint=hint)


def _named(token: _Token) -> str:
    return "the end" if token.kind == "end" else f"`{token.text}`"


def _pointing(text: str, column: int) -> str:
    """What is around a column, and a ``^`` below it; what is not printable takes one column, too."""
    begin, end = max(column - _EXCERPT, 0), column + _EXCERPT
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    shown = "".join(each if each.isprintable() else "·" for each in text[begin:end])
    return f"  {before}{shown}{after}\n  {' ' * (len(before) + column - begin)}^"
