"""What all artefacts have in common."""

import math
from typing import Annotated, Any

import msgspec

FORMAT = 1
LARGEST_COUNT = 2**53
"""Whole numbers up to here are exact as floats."""
LARGEST_PRICE = 1e9
"""Of a device per hour, in any currency: sums of prices stay far from what solvers take for infinity."""
LARGEST_BATCH = 65_536
"""Tables of latencies have an entry for each row of the largest batch."""
SHORTEST_S, LONGEST_S = 1e-9, 1e7
"""Of a batch: from less than a step of any clock to a third of a year. Rates, their inverse, stay finite."""

Count = Annotated[int, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen value that crosses a file or a process; unknown fields are errors."""


class MadeBy(Value, frozen=True):
    """Who wrote an artefact: program version, host, and time (ISO 8601, UTC)."""

    version: str
    host: str
    time: str


def always(default: Any) -> Any:
    """A field with a default that is written even in a value that omits its defaults."""
    return msgspec.field(default_factory=lambda: default)


def require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    """Raise `ValueError` with ``message`` unless ``condition``; decoders turn it into an artefact error."""
    if not condition:
        raise ValueError(message)


def is_amount(value: float) -> bool:
    """A finite number that is not negative."""
    return 0 <= value < math.inf


def is_rate(value: float) -> bool:
    """Queries per second, of which sums and multiples are finite."""
    return 0 <= value <= LARGEST_COUNT


def is_count(value: int, minimum: int = 0, maximum: int = LARGEST_COUNT) -> bool:
    """A whole number that a file may have; integers of JSON and TOML may have any number of digits."""
    return minimum <= value <= maximum
