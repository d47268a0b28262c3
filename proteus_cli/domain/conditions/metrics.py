"""What conditions compare: the metrics, the quantities each is compared with, and the values that each can take."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from proteus_cli.errors import UsageError
from proteus_cli.units import parse_duration, parse_energy


class Metric(StrEnum):
    """What is known of a query after an exit has answered it."""

    LATENCY = "latency"  # seconds since it arrived
    CONFIDENCE = "confidence"  # of the answer of this exit, on the scale of its family
    ACCURACY = "accuracy"  # to be expected of an answer of this exit, a fraction
    ENERGY = "energy"  # joules that it has taken so far: power × its share of the batches' time
    COMPUTATION = "computation"  # that it has taken so far, as a fraction of what the whole chain of exits takes
    EXIT = "exit"  # the number of this exit; the first is 1


_NAMES: Mapping[str, Metric] = {**{metric.value: metric for metric in Metric}, "response_time": Metric.LATENCY}


@dataclass(frozen=True, slots=True)
class Scale:
    """How a metric is measured: it takes values from ``minimum`` to ``maximum``, and maybe NaN.

    ``read`` turns a text into a number in base units, or raises `UsageError`; ``write`` is its inverse, exactly.
    ``quantity`` says in words what that text must be.
    """

    quantity: str
    read: Callable[[str], float]
    write: Callable[[float], str]
    minimum: float = 0.0
    maximum: float = math.inf
    may_be_nan: bool = False


def metric_named(name: str) -> Metric | None:
    """The metric of that name or alias; None where there is none."""
    return _NAMES.get(name)


LAST_EXIT = 1_000_000
"""The highest number of an exit that a condition may name."""

_NUMBER = re.compile(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?")
_PERCENTAGE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*%")


def _read_number(text: str) -> float:
    try:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"`{text}` is no plain number", hint="write a number without a unit, like `0.8`")
    return value


def _read_fraction(text: str) -> float:
    percentage = _PERCENTAGE.fullmatch(text)
    fraction = _read_number(f"{percentage[1]}e-2" if percentage else text)
    if not 0 <= fraction <= 1:
        raise UsageError(f"`{text}` is no part of a whole", hint="write a fraction or a percentage: `0.975`, `97.5%`")
    return fraction


def _read_exit(text: str) -> float:
    if not (text.isascii() and text.isdecimal() and 1 <= float(text) <= LAST_EXIT):
        raise UsageError(f"`{text}` is no number of an exit", hint="exits are counted from 1, as in `exit >= 2`")
    return float(text)


def _write_number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _writer(read: Callable[[str], float], thousandth: str, unit: str) -> Callable[[float], str]:
    """Writes what is below 1 in thousandths, where that text stands for just this number."""

    def write(value: float) -> str:
        text = f"{value * 1000:.15g}{thousandth}"
        return text if value < 1 and read(text) == value else f"{_write_number(value)}{unit}"

    return write


_FRACTION = "a fraction or a percentage: `0.975`, `97.5%`"

SCALES: Mapping[Metric, Scale] = {
    Metric.LATENCY: Scale("a duration: `30ms`", parse_duration, _writer(parse_duration, "ms", "s")),
    Metric.CONFIDENCE: Scale("a plain number: `0.8`", _read_number, _write_number, minimum=-math.inf, may_be_nan=True),
    Metric.ACCURACY: Scale(_FRACTION, _read_fraction, _write_number, maximum=1.0),
    Metric.ENERGY: Scale("an energy: `20mJ`", parse_energy, _writer(parse_energy, "mJ", "J")),
    Metric.COMPUTATION: Scale(_FRACTION, _read_fraction, _write_number, maximum=1.0),
    Metric.EXIT: Scale("the number of an exit: `2`", _read_exit, lambda value: str(int(value)), minimum=1.0),
}
