"""What can be served: families of queries and the variants that can answer them."""

from collections.abc import Mapping

import msgspec

from proteus_cli.domain.base import FORMAT, Value, is_amount, require
from proteus_cli.errors import ProteusError, UsageError
from proteus_cli.units import parse_duration

_LONGEST_NAME = 100


class Variant(Value, frozen=True):
    """One model of a family. ``onnx`` is a path relative to the catalog; ``accuracy`` a fraction, as declared."""

    name: str
    onnx: str
    accuracy: float

    def __post_init__(self) -> None:
        require(_is_name(self.name), f"variant name `{self.name}` must be letters, digits, `.`, `_`, `-`")
        require(0 <= self.accuracy <= 1, f"accuracy of `{self.name}` must be a fraction from 0 to 1")
        require(bool(self.onnx), f"variant `{self.name}` needs the path of its ONNX file")


class Family(Value, frozen=True):
    """One query type with one SLO. ``weight`` is its share where a demand gives only a total."""

    name: str
    slo: str
    variants: tuple[Variant, ...] = msgspec.field(name="variant")
    weight: float = 1.0
    eval: str | None = None

    def __post_init__(self) -> None:
        require(_is_name(self.name), f"family name `{self.name}` must be letters, digits, `.`, `_`, `-`")
        require(self.slo_s > 0, f"slo of `{self.name}` must be above zero")
        require(is_amount(self.weight), f"weight of `{self.name}` must be a number that is not negative")
        require(bool(self.variants), f"family `{self.name}` needs at least one variant")
        _require_unique([v.name for v in self.variants], f"variant of `{self.name}`")

    @property
    def slo_s(self) -> float:
        """The latency target in seconds."""
        try:
            return parse_duration(self.slo)
        except ProteusError as error:  # a bad unit in a file is a broken file
            raise ValueError(f"slo of `{self.name}`: {error.message}") from None

    def variant(self, name: str) -> Variant:
        """The variant of that name. Raises `UsageError`."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.variants)
        raise UsageError(f"Family `{self.name}` has no variant `{name}`.", hint=f"it has: {known}")


class Catalog(Value, frozen=True):
    """All families of a workspace (``engines/catalog.toml``)."""

    format: int
    families: tuple[Family, ...] = msgspec.field(name="family")

    def __post_init__(self) -> None:
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")
        require(bool(self.families), "it needs at least one [[family]]")
        _require_unique([f.name for f in self.families], "family")

    @property
    def names(self) -> tuple[str, ...]:
        """Family names in the order of the catalog."""
        return tuple(family.name for family in self.families)

    def family(self, name: str) -> Family:
        """The family of that name. Raises `UsageError`."""
        for family in self.families:
            if family.name == name:
                return family
        raise UsageError(f"No family `{name}` in the catalog.", hint=f"it has: {', '.join(self.names)}")

    def slo_s(self) -> Mapping[str, float]:
        """Latency target in seconds by family."""
        return {family.name: family.slo_s for family in self.families}


def _is_name(text: str) -> bool:
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in text)
    return 0 < len(text) <= _LONGEST_NAME and plain and text[0].isalnum()


def _require_unique(names: list[str], what: str) -> None:
    for name in names:
        require(names.count(name) == 1, f"{what} `{name}` is listed twice")
