"""Base class, checks and field types of all artefacts.

Field types with limits (`Count`, `Fraction`, …) are checked when an artefact is decoded, and by `checked`. The error
names the field.
``__post_init__`` of a class checks only how its fields fit each other.
"""

import math
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

FORMAT = 1
LARGEST_COUNT = 2**53
"""Whole numbers up to here are exact as floats."""
LARGEST_PRICE = 1e9
"""Price of a device per hour, in any currency. Sums of prices stay far below the infinity of solvers."""
LARGEST_BATCH = 65_536
"""Tables of latencies have an entry for each row of the largest batch."""
SHORTEST_S, LONGEST_S = 1e-9, 1e7
"""Limits of the time of a batch, in seconds. Rates, its inverse, stay finite."""
LARGEST_FLOAT = math.nextafter(math.inf, 0)

Count = Annotated[int, Meta(ge=0, le=LARGEST_COUNT)]
PositiveCount = Annotated[int, Meta(ge=1, le=LARGEST_COUNT)]
BatchSize = Annotated[int, Meta(ge=1, le=LARGEST_BATCH)]
Amount = Annotated[float, Meta(ge=0, le=LARGEST_FLOAT)]
PositiveAmount = Annotated[float, Meta(gt=0, le=LARGEST_FLOAT)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
PositiveFraction = Annotated[float, Meta(gt=0, le=1)]
OpenFraction = Annotated[float, Meta(gt=0, lt=1)]
Rate = Annotated[float, Meta(ge=0, le=LARGEST_COUNT)]
"""Queries per second. Sums and multiples are finite."""
Share = Annotated[float, Meta(ge=0, le=1 + 1e-9)]
"""A fraction that a solver computed, with its rounding."""
BatchSeconds = Annotated[float, Meta(ge=SHORTEST_S, le=LONGEST_S)]
Text = Annotated[str, Meta(min_length=1)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""A SHA-256 in hexadecimal digits."""


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen value that crosses a file or a process. Unknown fields are errors."""


ValueT = TypeVar("ValueT", bound=Value)


class MadeBy(Value, frozen=True):
    """The writer of an artefact: program version, host, and time (ISO 8601, UTC)."""

    version: str
    host: str
    time: str


def checked(value: ValueT) -> ValueT:
    """The value, after the limits of its fields were checked. Raises `msgspec.ValidationError`, a `ValueError`.

    For values that are made from numbers that no reader has checked.
    """
    return msgspec.convert(msgspec.to_builtins(value), type(value), strict=False)


def always(default: Any) -> Any:
    """A field with a default that is written even in a value that omits its defaults."""
    return msgspec.field(default_factory=lambda: default)


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Raise `ValueError` with ``message`` unless ``condition``. Decoders turn it into an artefact error."""
    if not condition:
        raise ValueError(message)


def require_format(found: int, known: int = FORMAT) -> None:
    """Raise `ValueError` unless an artefact has the format that this version reads."""
    require(found == known, f"`format` is {found}; this version reads {known}")


def require_rising(values: list[Any], what: str) -> None:
    """Raise `ValueError` unless the values rise strictly."""
    require(values == sorted(set(values)), f"{what} must rise")


def scaled(value: ValueT, by: float, *fields: str) -> ValueT:
    """A copy with some fields multiplied. A field that is None stays so."""
    known = ((field, getattr(value, field)) for field in fields)
    return msgspec.structs.replace(value, **{field: old * by for field, old in known if old is not None})


def is_amount(value: float) -> bool:
    """A finite number that is not negative."""
    return 0 <= value < math.inf


def is_count(value: int, minimum: int = 0, maximum: int = LARGEST_COUNT) -> bool:
    """A whole number that a file may have. Integers of JSON and TOML may have any number of digits."""
    return minimum <= value <= maximum
