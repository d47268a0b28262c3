"""Conditions and guards in a short form: ``confidence >= 0.8 or exit >= 2``, ``p99 <= slo and errors <= 1%``."""

import re

import msgspec

from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.rollouts import QUANTILES, Term
from proteus_cli.units import parse_duration

_TERM = re.compile(r"\s*(\w+) [<>]= (?:(slo)|(old)(?: ([+-]) (\S+))?|(\S+))\s*")


def parse_condition(text: str) -> Condition:
    """A condition without parentheses; ``and`` binds tighter than ``or``."""
    parts = [[_comparison(term) for term in re.split(r"\band\b", part)] for part in re.split(r"\bor\b", text)]
    conjunctions = [part[0] if len(part) == 1 else Condition(all=tuple(part)) for part in parts]
    return conjunctions[0] if len(conjunctions) == 1 else Condition(any=tuple(conjunctions))


def _comparison(text: str) -> Condition:
    found = re.fullmatch(r"\s*(\w+)\s*([<>=]+)\s*(\S+)\s*", text)
    assert found is not None, text
    metric, op, value = found.groups()
    return msgspec.convert({"metric": metric, "op": op, "value": float(value)}, Condition)


def parse_guard(text: str) -> tuple[Term, ...]:
    """The terms of a guard, joined by ``and``."""
    return tuple(map(_term, re.split(r"\band\b", text)))


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    assert found is not None, text
    metric, slo, old, sign, difference, number = found.groups()
    value = _quantity(difference or number or "0", is_latency=metric in QUANTILES and not slo)
    fields = {"metric": metric, "reference": slo or old or "number", "value": -value if sign == "-" else value}
    return msgspec.convert(fields, Term)


def _quantity(text: str, *, is_latency: bool) -> float:
    if is_latency:
        return parse_duration(text)
    return float(f"{text[:-1]}e-2" if text.endswith("%") else text)
