"""The catalog: families of queries, and the variants that can answer them (``engines/catalog.toml``)."""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget
from proteus_cli.domain.base import (
    LARGEST_PRICE,
    Amount,
    Fraction,
    OpenFraction,
    PositiveAmount,
    PositiveCount,
    PositiveFraction,
    Text,
    Value,
    require,
    require_format,
)
from proteus_cli.domain.conditions import Condition, require_stop_condition
from proteus_cli.domain.stages.cascade import MARGIN, output_of
from proteus_cli.domain.stages.exits import MAX_EXITS
from proteus_cli.errors import ProteusError, UsageError
from proteus_cli.units import parse_duration

Preference = Literal["accuracy", "latency", "energy", "cost"]
"""The quality of answers that plans optimise: high accuracy, or low latency, energy or cost."""

PREFERENCES: tuple[Preference, ...] = ("accuracy", "latency", "energy", "cost")

LONGEST_NAME = 100

VERSION_MARK = "@"
"""Separates the name of a variant in the catalog from its version in a server (`catalog_changes`)."""

PLACEHOLDERS = ("data", "out")
"""Names in braces in a retrain command: the labelled rows, and the directory for the models."""


class VariantKey(NamedTuple):
    """A variant by the names of its family and of itself: unique in a catalog."""

    family: str
    variant: str


NO_VARIANTS: frozenset[VariantKey] = frozenset()

VariantsByDevice = Mapping[str, frozenset[VariantKey]]
"""Variants that devices host, have loaded, or have standing by; by device id."""


def variant_labels(keys: Iterable[VariantKey]) -> dict[VariantKey, str]:
    """The name of each variant for people. It includes the family if another family has a variant of that name.

    ``"digits-l"``, but ``"faces/large"`` beside ``"plates/large"``.
    """
    keys = set(keys)
    count = Counter(key.variant for key in keys)
    return {key: key.variant if count[key.variant] == 1 else f"{key.family}/{key.variant}" for key in keys}


def name_in_catalog(variant: str) -> str:
    """The name of a variant in the catalog file: without the version that a server gave it."""
    return variant.partition(VERSION_MARK)[0]


def is_name(text: str) -> bool:
    """Letters, digits, `.`, `_` and `-`, beginning with a letter or digit: safe in paths and options."""
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in text)
    return 0 < len(text) <= LONGEST_NAME and plain and text[0].isalnum()


def _require_name(what: str, name: str) -> None:
    require(is_name(name), f"{what} `{name}` must be letters, digits, `.`, `_`, `-`")


def _require_unique(names: list[str], what: str) -> None:
    for name, times in Counter(names).items():
        require(times == 1, f"{what} `{name}` is listed twice")


def _seconds(text: str, what: str) -> float:
    """A duration of the file in seconds. Raises `ValueError`, as a bad unit in a file is a broken file."""
    try:
        return parse_duration(text)
    except ProteusError as error:
        raise ValueError(f"{what}: {error.message}") from None


class FamilyPolicy(Value, frozen=True):
    """The table ``[family.policy]``: the aim of a family's plans, and bounds of each of its answers.

    ``max_latency`` replaces the SLO in plans. ``max_energy_j`` limits the energy of an answer in any batch, and
    ``max_cost_per_million`` the cost of a million queries in device time. None: no bound.
    """

    prefer: Preference = "accuracy"
    max_latency: str | None = None
    max_energy_j: PositiveAmount | None = None
    max_cost_per_million: PositiveAmount | None = None

    def __post_init__(self) -> None:
        latency_s = self.max_latency_s
        require(latency_s is None or latency_s > 0, "max_latency must be above zero")

    @property
    def max_latency_s(self) -> float | None:
        """``max_latency`` in seconds; None: no limit. Raises `ValueError` if the text is no duration."""
        return None if self.max_latency is None else _seconds(self.max_latency, "max_latency")


DEFAULT_POLICY = FamilyPolicy()


class Task(Value, frozen=True):
    """The table ``[family.task]``: how the variants were trained, and can be trained again.

    ``data`` is the path of the labelled rows, relative to the catalog. ``retrain`` is a command that replaces the
    built-in recipe, which takes ``seed`` and at most ``rows`` rows.
    """

    data: Text
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    rows: PositiveCount | None = None
    retrain: str | None = None

    def __post_init__(self) -> None:
        if self.retrain is None:
            return
        example = 'such as "python train.py {data} {out}"'
        try:
            words = shlex.split(self.retrain)
            named = {name for word in words for _, name, _, _ in Formatter().parse(word) if name is not None}
        except ValueError as error:
            raise ValueError(f"retrain of a task is no command: {error}; {example}") from None
        is_complete = bool(words) and named == set(PLACEHOLDERS)
        require(is_complete, f"retrain of a task must name {{data}} and {{out}}, and nothing else, {example}")

    def command(self, data: str, out: str) -> list[str]:
        """The words of the retrain command, with these paths for its placeholders."""
        return [word.format(data=data, out=out) for word in shlex.split(self.retrain or "")]


class Variant(Value, frozen=True):
    """One model of a family. ``onnx`` is a path relative to the catalog; ``accuracy`` a fraction, as declared.

    ``estimated``: the accuracy comes from convention or agreement with another variant, not from labels.
    A variant without ``onnx`` can be planned and simulated from imported profiles, not measured or served. ``banned``
    and ``pinned`` are devices (ids or types) that may not, or must, host it.

    A multi-exit model has ``exits`` instead of ``onnx``: the ONNX files of its stages, in order. A query stops at the
    first stage after which ``stop_when`` holds.
    """

    name: str
    accuracy: Fraction
    onnx: Text | None = None
    estimated: bool = False
    banned: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    exits: tuple[Text, ...] = ()
    stop_when: Condition | None = None

    def __post_init__(self) -> None:
        for part in self.name.split(VERSION_MARK, 1):
            require(is_name(part), f"variant name `{self.name}` must be letters, digits, `.`, `_`, `-`")
        if not self.exits:
            is_whole = self.stop_when is None
            require(is_whole, f"stop_when of `{self.name}` needs `exits`: without, there is nothing to stop")
            return
        require(1 < len(self.exits) <= MAX_EXITS, f"exits of `{self.name}` must be 2 to {MAX_EXITS} ONNX files")
        require(self.onnx is None, f"`{self.name}` has `exits` and `onnx`: leave one of them out")
        if self.stop_when is None:
            example = 'stop_when = {metric = "confidence", op = ">=", value = 0.9}'
            raise ValueError(f"`{self.name}` has `exits`, and needs `{example}`")
        require_stop_condition(self.stop_when, self.name)

    @property
    def files(self) -> tuple[str, ...]:
        """Its ONNX files, relative to the catalog: none, one, or one for each exit."""
        return self.exits or (() if self.onnx is None else (self.onnx,))


Resizing = Literal["stretch", "crop"]
"""How JPEG and PNG files are resized to an input: the whole image, or its centre in the shape of the input."""

Layout = Literal["NHWC", "NCHW"]
"""The order of the axes of images: rows, height, width, channels; or rows, channels, height, width."""

_Side = Annotated[int, Meta(ge=1, le=16_384)]


class ImageInput(Value, frozen=True):
    """The tensor that clients send to a family of image models, in UINT8, whatever input each variant takes.

    ``size`` is (height, width). Each variant gets it in its own size, layout and type, with the value
    (pixel × ``scale`` - ``mean``) / ``std``. ``mean`` and ``std`` are by channel, or empty: 0 and 1.
    """

    size: tuple[_Side, _Side]
    name: str = "image"
    layout: Layout = "NHWC"
    channels: Annotated[int, Meta(ge=1, le=64)] = 3
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[PositiveAmount, ...] = ()
    resize: Resizing = "stretch"

    def __post_init__(self) -> None:
        _require_name("name of an input", self.name)
        require(math.isfinite(self.scale) and self.scale != 0, f"scale of `{self.name}` must be a number other than 0")
        for what, values in (("mean", self.mean), ("std", self.std)):
            require(len(values) in {0, self.channels}, f"{what} of `{self.name}` must have a number for each channel")
            require(all(map(math.isfinite, values)), f"{what} of `{self.name}` must be numbers")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of a row."""
        height, width = self.size
        return (height, width, self.channels) if self.layout == "NHWC" else (self.channels, height, width)

    @property
    def changes_values(self) -> bool:
        """Whether pixels are scaled or normalised before they enter the model."""
        return self.scale != 1 or any(self.mean) or any(each != 1 for each in self.std)


class Family(Value, frozen=True):
    """One query type with one SLO. ``weight`` is its share of a demand that gives only a total.

    ``attainment`` is the fraction of its queries that must be answered in time, unless the rules of a plan set another.

    Limits of its plans: the accuracy of the least accurate variant that may answer (``min_accuracy``), the least
    expected accuracy of an answer, also of a cascade (``min_expected_accuracy``), the largest fraction of its demand on
    one device (``max_share``), and devices (ids or types) that it has for itself (``reserved``).

    ``input`` is the clients' tensor, if it differs from the models' own. ``eval`` and ``labels`` are paths relative to
    the catalog: of the split that measures accuracy, and of the class names. ``confidence`` is the measure of how sure
    a variant is of an answer: ``margin``, or ``output:NAME``. ``policy`` has the aim of its plans. ``task`` describes
    the training by `proteus task`, if any.
    """

    name: str
    slo: str
    variants: tuple[Variant, ...] = msgspec.field(name="variant")
    weight: Amount = 1.0
    attainment: OpenFraction = DEFAULT_ATTAINMENT
    eval: str | None = None
    labels: str | None = None
    input: ImageInput | None = None
    min_accuracy: Fraction | None = None
    max_share: PositiveFraction | None = None
    reserved: tuple[str, ...] = ()
    confidence: str = MARGIN
    min_expected_accuracy: Fraction | None = None
    policy: FamilyPolicy = DEFAULT_POLICY
    task: Task | None = None

    def __post_init__(self) -> None:
        _require_name("family name", self.name)
        require(self.slo_s > 0, f"slo of `{self.name}` must be above zero")
        try:
            output_of(self.confidence)
        except ValueError as error:
            raise ValueError(f"confidence of `{self.name}`: {error}") from None
        is_within = (self.policy.max_latency_s or 0) <= self.slo_s
        require(is_within, f"max_latency of `{self.name}` must be at most its slo, {self.slo}")
        require(bool(self.variants), f"family `{self.name}` needs at least one variant")
        _require_unique([v.name for v in self.variants], f"variant of `{self.name}`")

    @property
    def slo_s(self) -> float:
        """The latency target in seconds. Raises `ValueError` if the text is no duration."""
        return _seconds(self.slo, f"slo of `{self.name}`")

    def variant(self, name: str) -> Variant:
        """The variant of that name. Raises `UsageError`."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.variants)
        raise UsageError(f"Family `{self.name}` has no variant `{name}`.", hint=f"it has: {known}")


class Catalog(Value, frozen=True):
    """All families of a workspace.

    ``price_per_hour``: the price of a device in use, by id or type, in any one currency.
    """

    format: int
    families: tuple[Family, ...] = msgspec.field(name="family")
    price_per_hour: dict[str, Annotated[float, Meta(ge=0, le=LARGEST_PRICE)]] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        require_format(self.format)
        require(bool(self.families), "it needs at least one [[family]]")
        _require_unique([f.name for f in self.families], "family")

    @property
    def names(self) -> tuple[str, ...]:
        """Family names in the order of the catalog."""
        return tuple(family.name for family in self.families)

    @property
    def variants(self) -> tuple[tuple[Family, Variant], ...]:
        """All variants, each with its family."""
        return tuple((family, variant) for family in self.families for variant in family.variants)

    @property
    def keys(self) -> frozenset[VariantKey]:
        """The keys of all variants."""
        return frozenset(VariantKey(family.name, variant.name) for family, variant in self.variants)

    def family(self, name: str) -> Family:
        """The family of that name. Raises `UsageError`."""
        for family in self.families:
            if family.name == name:
                return family
        raise UsageError(f"No family `{name}` in the catalog.", hint=f"it has: {', '.join(self.names)}")

    def find(self, name: str) -> tuple[Family, Variant]:
        """The variant named ``name`` or FAMILY/NAME, with its family. Raises `UsageError` unless just one matches."""
        of_family, _, of_variant = name.rpartition("/")
        if of_family:
            return self.family(of_family), self.family(of_family).variant(of_variant)
        found = [(family, variant) for family, variant in self.variants if variant.name == name]
        if not found:
            known = ", ".join(variant.name for _, variant in self.variants)
            raise UsageError(f"No variant `{name}` in the catalog.", hint=f"it has: {known}")
        if len(found) > 1:
            each = ", ".join(f"{family.name}/{name}" for family, _ in found)
            raise UsageError(f"Several families have a variant `{name}`.", hint=f"name one of: {each}")
        return found[0]

    def label(self, key: VariantKey) -> str:
        """The name of a variant in messages, among all of the catalog (`variant_labels`)."""
        return variant_labels({key, *self.keys})[key]

    def with_variants(self, family: Family, after: str, added: Sequence[Variant]) -> "Catalog":
        """A copy with more variants of a family, behind the one named ``after``."""
        place = [variant.name for variant in family.variants].index(after) + 1
        variants = (*family.variants[:place], *added, *family.variants[place:])
        larger = msgspec.structs.replace(family, variants=variants)
        families = tuple(larger if each is family else each for each in self.families)
        return msgspec.structs.replace(self, families=families)

    def price_of(self, device: str, device_type: str) -> float | None:
        """The price of a device per hour; None if unknown."""
        return self.price_per_hour.get(device, self.price_per_hour.get(device_type))

    def slo_s(self) -> Mapping[str, float]:
        """Latency target in seconds by family."""
        return {family.name: family.slo_s for family in self.families}

    def slo_targets(self) -> Mapping[str, SloTarget]:
        """The SLO of each family, and the fraction of its queries that must be within it."""
        return {family.name: SloTarget(family.slo_s, family.attainment) for family in self.families}
