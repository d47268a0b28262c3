"""The text of a condition → a `Condition`, by recursive descent; what is wrong is an error that points at it."""

from collections.abc import Collection

from proteus_cli.domain.conditions.condition import OPERATORS, Comparison, Condition, Operator, all_of, any_of
from proteus_cli.domain.conditions.metrics import SCALES, Metric, metric_named
from proteus_cli.domain.conditions.reading import Token, TokenReader
from proteus_cli.errors import UsageError

MAX_COMPARISONS = 24
DEEPEST = 16
"""Parentheses within each other."""

_HINT_NUMBER_FIRST = "write the metric first: `confidence >= 0.8`"
_HINT_OPERATORS = f"operators: {' '.join(OPERATORS)}"


def parse(text: str, known: Collection[Metric] = tuple(Metric)) -> Condition:
    """Raises `ConditionError`, whose hint has the ``known`` metrics where a text has another word."""
    return _Parser(text, known).whole()


class _Parser(TokenReader):
    """Has read ``comparisons``; is inside of ``depth`` parentheses."""

    def __init__(self, text: str, known: Collection[Metric]) -> None:
        super().__init__(text, "condition")
        self._known = known
        self._comparisons = 0
        self._depth = 0

    def whole(self) -> Condition:
        condition = self._any_of()
        if self.next.kind == ")":
            self.fail("a `)` that closes nothing", hint="leave it out, or write a `(` before it")
        if self.next.kind != "end":
            self.fail(f"`{self.next.text}` where the condition should go on", hint="join comparisons by `and` or `or`")
        return condition

    def _any_of(self) -> Condition:
        parts = [self._all_of()]
        while self.took("or"):
            parts.append(self._all_of())
        return any_of(parts)

    def _all_of(self) -> Condition:
        parts = [self._operand()]
        while self.took("and"):
            parts.append(self._operand())
        return all_of(parts)

    def _operand(self) -> Condition:
        if self.next.kind != "(":
            return self._comparison()
        opened = self.take()
        self._depth += 1
        if self._depth > DEEPEST:
            self.fail(f"more than {DEEPEST} parentheses within each other", hint="write fewer", at=opened)
        condition = self._any_of()
        if self.take().kind != ")":
            self.fail("a `(` that nothing closes", hint="write a `)` at its end", at=opened)
        self._depth -= 1
        return condition

    def _comparison(self) -> Comparison:
        at = self.next
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            self.fail("one comparison too many", hint=f"write at most {MAX_COMPARISONS}")
        metric = self._metric()
        operator = self._operator(after=at)
        return Comparison(metric, operator, self._quantity(metric, operator))

    def _metric(self) -> Metric:
        word = self.next
        metric = metric_named(word.text) if word.kind == "word" else None
        if metric is None:
            problem = f"no metric `{word.text}`" if word.kind == "word" else f"{word.named} where a metric should be"
            hint = (
                _HINT_NUMBER_FIRST
                if word.kind == "number"
                else f"metrics: {', '.join(each for each in Metric if each in self._known)}"
            )
            self.fail(problem, hint=hint)
        self.take()
        return metric

    def _operator(self, *, after: Token) -> Operator:
        found = self.next
        if found.kind != "operator":
            self.fail(f"{found.named} where `{after.text}` should be compared", hint=_HINT_OPERATORS)
        operator = next((each for each in OPERATORS if each == found.text), None)
        if operator is None:
            self.fail(f"no operator `{found.text}`", hint=_HINT_OPERATORS)
        self.take()
        return operator

    def _quantity(self, metric: Metric, operator: Operator) -> float:
        quantity = self.next
        scale = SCALES[metric]
        if quantity.kind != "number":
            hint = f"{metric} is compared with {scale.quantity}"
            self.fail(f"{quantity.named} where a number should be after `{operator}`", hint=hint)
        try:
            value = scale.read(quantity.text)
        except UsageError as error:
            self.fail(error.message.rstrip("."), hint=error.hint)
        self.take()
        return value
