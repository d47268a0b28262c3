"""What can be served: families of queries and the variants that can answer them.

What a family's plans aim for once all demand is served, and the bounds that each of its answers keeps.

How the variants of a family were trained, and can be trained anew: ``[family.task]`` of a catalog.
"""

import math
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Literal, NamedTuple

import msgspec

from proteus_cli.domain.attainment import DEFAULT_ATTAINMENT, SloTarget, is_attainment_target
from proteus_cli.domain.base import FORMAT, LARGEST_PRICE, Value, is_amount, is_count, require
from proteus_cli.domain.conditions import Condition, require_stop_condition
from proteus_cli.domain.stages.cascade import MARGIN, output_of
from proteus_cli.domain.stages.exits import MAX_EXITS
from proteus_cli.errors import ProteusError, UsageError
from proteus_cli.units import parse_duration

Preference = Literal["accuracy", "latency", "energy", "cost"]
"""What answers should have much of, or take little of."""

PREFERENCES: tuple[Preference, ...] = ("accuracy", "latency", "energy", "cost")


class FamilyPolicy(Value, frozen=True):
    """The table ``[family.policy]`` of a catalog. Bounds that are left out are not set.

    ``max_latency`` is what plans count on in place of the SLO, ``max_energy_j`` what an answer takes at most, in
    whatever batch, and ``max_cost_per_million`` what so many queries cost of the time of their devices.
    """

    prefer: Preference = "accuracy"
    max_latency: str | None = None
    max_energy_j: float | None = None
    max_cost_per_million: float | None = None

    def __post_init__(self) -> None:
        latency_s = self.max_latency_s
        require(latency_s is None or latency_s > 0, "max_latency must be above zero")
        for name, bound in (("max_energy_j", self.max_energy_j), ("max_cost_per_million", self.max_cost_per_million)):
            require(bound is None or (is_amount(bound) and bound > 0), f"{name} must be above zero")

    @property
    def max_latency_s(self) -> float | None:
        """``max_latency`` in seconds; None: no limit. Raises `ValueError` where the text is no duration."""
        try:
            return None if self.max_latency is None else parse_duration(self.max_latency)
        except ProteusError as error:  # a bad unit in a file is a broken file
            raise ValueError(f"max_latency: {error.message}") from None


DEFAULT_POLICY = FamilyPolicy()


PLACEHOLDERS = ("data", "out")
"""What stands in braces in a command of the user's own: the labelled rows, and the directory for the models."""


class Task(Value, frozen=True):
    """What a family was trained on: ``data`` is the path of the labelled rows, relative to the catalog.

    ``retrain`` is a command that trains its variants anew, in place of our own recipe, for which ``seed`` and the most
    ``rows`` are.
    """

    data: str
    seed: int = 0
    rows: int | None = None
    retrain: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.data), "data of a task must be the path of an .npz with labels")
        require(is_count(self.seed, maximum=2**32 - 1), "seed of a task must be a whole number from 0 below 2^32")
        require(self.rows is None or is_count(self.rows, minimum=1), "rows of a task must be a whole number from 1")
        if self.retrain is not None:
            _require_command(self.retrain)

    def command(self, data: str, out: str) -> list[str]:
        """The words of the user's own command, with these paths in place of their names."""
        return [word.format(data=data, out=out) for word in shlex.split(self.retrain or "")]


def _require_command(text: str) -> None:
    example = 'such as "python train.py {data} {out}"'
    try:
        words = shlex.split(text)
        named = {name for word in words for _, name, _, _ in Formatter().parse(word) if name is not None}
    except ValueError as error:
        raise ValueError(f"retrain of a task is no command: {error}; {example}") from None
    require(bool(words), f"retrain of a task must be a command, {example}")
    require(
        named == set(PLACEHOLDERS), f"retrain of a task must name {{data}} and {{out}}, and nothing else, {example}"
    )


LONGEST_NAME = 100
_LARGEST_SIDE = 16_384
_MAX_CHANNELS = 64


VERSION_MARK = "@"
"""Between the name of a variant in the catalog and its version, where a server has several (`catalog_changes`)."""


class VariantKey(NamedTuple):
    """A variant by the names of its family and of itself: unique in a catalog."""

    family: str
    variant: str


NO_VARIANTS: frozenset[VariantKey] = frozenset()

VariantsByDevice = Mapping[str, frozenset[VariantKey]]
"""What devices host, have loaded, or have standing by; by their ids."""


def variant_labels(keys: Iterable[VariantKey]) -> dict[VariantKey, str]:
    """The name of each variant for people: with its family where another family has a variant of that name.

    ``"digits-l"``, but ``"faces/large"`` beside ``"plates/large"``.
    """
    keys = set(keys)
    count = Counter(key.variant for key in keys)
    return {key: key.variant if count[key.variant] == 1 else f"{key.family}/{key.variant}" for key in keys}


class Variant(Value, frozen=True):
    """One model of a family. ``onnx`` is a path relative to the catalog; ``accuracy`` a fraction, as declared.

    ``estimated``: no labels stand behind the accuracy, only convention or agreement with another variant.
    Without ``onnx`` it can be planned and simulated from imported profiles, not measured or served. ``banned`` and
    ``pinned`` are devices (ids or types) that may not, or must, host it.

    A multi-exit model has ``exits`` in place of ``onnx``: the ONNX files of its stages, in order. Queries for which
    ``stop_when`` holds after a stage have their answer from that exit.
    """

    name: str
    accuracy: float
    onnx: str | None = None
    estimated: bool = False
    banned: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    exits: tuple[str, ...] = ()
    stop_when: Condition | None = None

    def __post_init__(self) -> None:
        is_variant_name = all(map(is_name, self.name.split(VERSION_MARK, 1)))
        require(is_variant_name, f"variant name `{self.name}` must be letters, digits, `.`, `_`, `-`")
        require(0 <= self.accuracy <= 1, f"accuracy of `{self.name}` must be a fraction from 0 to 1")
        require(self.onnx is None or bool(self.onnx), f"onnx of `{self.name}` must be the path of its ONNX file")
        self._require_exits()

    @property
    def files(self) -> tuple[str, ...]:
        """The ONNX files that it is made of, relative to the catalog: none, one, or one for each exit."""
        return self.exits or (() if self.onnx is None else (self.onnx,))

    def _require_exits(self) -> None:
        if not self.exits:
            require(
                self.stop_when is None, f"stop_when of `{self.name}` needs `exits`: without, there is nothing to stop"
            )
            return
        count = f"exits of `{self.name}` must be the ONNX files of 2 to {MAX_EXITS} stages"
        require(2 <= len(self.exits) <= MAX_EXITS and all(self.exits), count)  # noqa: PLR2004
        require(self.onnx is None, f"`{self.name}` has `exits` and `onnx`: leave one of them out")
        if self.stop_when is None:
            example = 'stop_when = {metric = "confidence", op = ">=", value = 0.9}'
            raise ValueError(f"`{self.name}` has `exits`, and needs `{example}`")
        require_stop_condition(self.stop_when, len(self.exits), self.name)


Resizing = Literal["stretch", "crop"]
"""How JPEG and PNG files get the size of an input: all of the image, or its centre in the shape of the input."""

Layout = Literal["NHWC", "NCHW"]
"""The order of the axes of images: rows, height, width, channels; or rows, channels, height, width."""


class ImageInput(Value, frozen=True):
    """The one tensor that clients send to a family of image models, in UINT8, whatever each variant takes itself.

    ``size`` is (height, width). Each variant's model gets it in its own size, layout and type, with the value
    (pixel × ``scale`` - ``mean``) / ``std``; the last two by channel, or empty: 0 and 1.
    """

    size: tuple[int, int]
    name: str = "image"
    layout: Layout = "NHWC"
    channels: int = 3
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: Resizing = "stretch"

    def __post_init__(self) -> None:
        require(is_name(self.name), f"name `{self.name}` of an input must be letters, digits, `.`, `_`, `-`")
        largest = f"from 1 to {_LARGEST_SIDE:,}"
        require(all(1 <= side <= _LARGEST_SIDE for side in self.size), f"size of `{self.name}` must be {largest}")
        require(1 <= self.channels <= _MAX_CHANNELS, f"channels of `{self.name}` must be from 1 to {_MAX_CHANNELS}")
        require(math.isfinite(self.scale) and self.scale != 0, f"scale of `{self.name}` must be a number other than 0")
        for what, values in (("mean", self.mean), ("std", self.std)):
            require(len(values) in {0, self.channels}, f"{what} of `{self.name}` must have a number for each channel")
            require(all(map(math.isfinite, values)), f"{what} of `{self.name}` must be numbers")
        require(all(each > 0 for each in self.std), f"std of `{self.name}` must be above zero")

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sizes of a row."""
        height, width = self.size
        return (height, width, self.channels) if self.layout == "NHWC" else (self.channels, height, width)

    @property
    def changes_values(self) -> bool:
        """Whether pixels are scaled or normalised before they enter the model."""
        return self.scale != 1 or any(self.mean) or any(each != 1 for each in self.std)


class Family(Value, frozen=True):
    """One query type with one SLO. ``weight`` is its share where a demand gives only a total.

    ``attainment`` is the share of its queries that must be answered in time, unless the rules of a plan set another.

    Limits for its plans: the least accurate variant that may answer (``min_accuracy``), the least accuracy that may be
    expected of an answer, also of a cascade (``min_expected_accuracy``), the largest part of its demand on any one
    device (``max_share``), devices (ids or types) that nobody else may use (``reserved``).

    ``input`` is what clients send, where that is not what the models themselves take.

    ``eval`` and ``labels`` are paths relative to the catalog: of the split that accuracy is measured on, and of the
    names of the classes.

    ``confidence`` says what tells how sure a variant is of an answer: ``margin``, or ``output:NAME``.

    ``policy`` is what its plans aim for, and bounds of its answers.

    ``task`` says how its variants were trained, where `proteus task` did.
    """

    name: str
    slo: str
    variants: tuple[Variant, ...] = msgspec.field(name="variant")
    weight: float = 1.0
    attainment: float = DEFAULT_ATTAINMENT
    eval: str | None = None
    labels: str | None = None
    input: ImageInput | None = None
    min_accuracy: float | None = None
    max_share: float | None = None
    reserved: tuple[str, ...] = ()
    confidence: str = MARGIN
    min_expected_accuracy: float | None = None
    policy: FamilyPolicy = DEFAULT_POLICY
    task: Task | None = None

    def __post_init__(self) -> None:
        require(is_name(self.name), f"family name `{self.name}` must be letters, digits, `.`, `_`, `-`")
        require(self.slo_s > 0, f"slo of `{self.name}` must be above zero")
        require(is_amount(self.weight), f"weight of `{self.name}` must be a number that is not negative")
        require(
            is_attainment_target(self.attainment),
            f"attainment of `{self.name}` must be above 0 and below 1: 0.995 asks for 99.5 % in time",
        )
        floors = {"min_accuracy": self.min_accuracy, "min_expected_accuracy": self.min_expected_accuracy}
        for what, floor in floors.items():
            require(floor is None or 0 <= floor <= 1, f"{what} of `{self.name}` must be a fraction from 0 to 1")
        share = self.max_share
        require(share is None or 0 < share <= 1, f"max_share of `{self.name}` must be above 0 and at most 1")
        _require_confidence(self.confidence, self.name)
        latency_s = self.policy.max_latency_s
        is_within = latency_s is None or latency_s <= self.slo_s
        require(is_within, f"max_latency of `{self.name}` must be at most its slo, {self.slo}")
        require(bool(self.variants), f"family `{self.name}` needs at least one variant")
        _require_unique([v.name for v in self.variants], f"variant of `{self.name}`")

    @property
    def slo_s(self) -> float:
        """The latency target in seconds. Raises `ValueError` where the text is no duration."""
        try:
            return parse_duration(self.slo)
        except ProteusError as error:  # a bad unit in a file is a broken file
            raise ValueError(f"slo of `{self.name}`: {error.message}") from None

    @property
    def slo_target(self) -> SloTarget:
        """The SLO, and the share of queries that must be within it."""
        return SloTarget(self.slo_s, self.attainment)

    def variant(self, name: str) -> Variant:
        """The variant of that name. Raises `UsageError`."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.variants)
        raise UsageError(f"Family `{self.name}` has no variant `{name}`.", hint=f"it has: {known}")


class Catalog(Value, frozen=True):
    """All families of a workspace (``engines/catalog.toml``).

    ``price_per_hour``: what a device in use costs, by id or type, in any one currency.
    """

    format: int
    families: tuple[Family, ...] = msgspec.field(name="family")
    price_per_hour: dict[str, float] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        for device, price in self.price_per_hour.items():
            require(0 <= price <= LARGEST_PRICE, f"price_per_hour of `{device}` must be a number from 0 to a billion")
        require(self.format == FORMAT, f"`format` is {self.format}; this version reads {FORMAT}")
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
        """The variant of a name, or of FAMILY/NAME, with its family. Raises `UsageError` unless there is just one."""
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
        """What messages call a variant, beside all of the catalog: one of `variant_labels`."""
        return variant_labels([key, *(VariantKey(family.name, variant.name) for family, variant in self.variants)])[key]

    def with_variants(self, family: Family, after: str, added: Sequence[Variant]) -> "Catalog":
        """With more variants of a family, behind the one named ``after``."""
        place = [variant.name for variant in family.variants].index(after) + 1
        variants = (*family.variants[:place], *added, *family.variants[place:])
        larger = msgspec.structs.replace(family, variants=variants)
        families = tuple(larger if each is family else each for each in self.families)
        return msgspec.structs.replace(self, families=families)

    def price_of(self, device: str, device_type: str) -> float | None:
        """What a device costs per hour; None where that is unknown."""
        return self.price_per_hour.get(device, self.price_per_hour.get(device_type))

    def slo_s(self) -> Mapping[str, float]:
        """Latency target in seconds by family."""
        return {family.name: family.slo_s for family in self.families}

    def slo_targets(self) -> Mapping[str, SloTarget]:
        """The SLO of each family, and the share of its queries that must be within it."""
        return {family.name: family.slo_target for family in self.families}


def name_in_catalog(variant: str) -> str:
    """The name that the catalog file has for a variant: without the version that a server gave it."""
    return variant.partition(VERSION_MARK)[0]


def is_name(text: str) -> bool:
    """Letters, digits, `.`, `_` and `-`, of which the first is none of the last three: safe in paths and options."""
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in text)
    return 0 < len(text) <= LONGEST_NAME and plain and text[0].isalnum()


def _require_confidence(confidence: str, family: str) -> None:
    try:
        output_of(confidence)
    except ValueError as error:
        raise ValueError(f"confidence of `{family}`: {error}") from None


def _require_unique(names: list[str], what: str) -> None:
    for name, times in Counter(names).items():
        require(times == 1, f"{what} `{name}` is listed twice")
