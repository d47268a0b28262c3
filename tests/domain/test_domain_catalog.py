from typing import Any

import msgspec
import pytest
from builders import make_catalog, make_family
from short_forms import parse_condition

from proteus_cli.domain.base import checked
from proteus_cli.domain.catalog import Catalog, Family, Variant, VariantKey, variant_labels
from proteus_cli.errors import UsageError

SMALL = Variant("a-s", 0.8, "a-s.onnx")


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a b", "a/b", "größe", "a" * 101, "a\n"])
def test_a_name_that_would_break_paths_or_options_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be letters"):
        Variant(name, 0.5, "a.onnx")
    with pytest.raises(ValueError, match="must be letters"):
        Family(name, "50ms", (SMALL,))


@pytest.mark.parametrize("accuracy", [-0.01, 1.01, 95.0, float("nan"), float("inf")])
def test_an_accuracy_is_a_fraction(accuracy: float) -> None:
    with pytest.raises(ValueError, match="accuracy"):
        checked(Variant("a-s", accuracy, "a.onnx"))


def test_the_ends_of_the_accuracies_are_allowed() -> None:
    assert [Variant("v", accuracy, "v.onnx").accuracy for accuracy in (0.0, 1.0)] == [0.0, 1.0]


def test_a_variant_has_the_path_of_a_file_or_none() -> None:
    assert Variant("a-s", 0.5).onnx is None
    with pytest.raises(ValueError, match="onnx"):
        checked(Variant("a-s", 0.5, ""))


@pytest.mark.parametrize("slo", ["0ms", "-5ms", "50", "fast", "", "nanms", "infs", "5qps"])
def test_an_slo_is_a_duration_above_zero(slo: str) -> None:
    with pytest.raises(ValueError, match="slo of `a`"):
        Family("a", slo, (SMALL,))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_a_finite_amount(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        checked(Family("a", "50ms", (SMALL,), weight))


@pytest.mark.parametrize("attainment", [0.0, 1.0, 99.5, -0.5, float("nan"), float("inf")])
def test_an_attainment_target_allows_some_violations_but_not_only_those(attainment: float) -> None:
    with pytest.raises(ValueError, match="attainment"):
        checked(Family("a", "50ms", (SMALL,), attainment=attainment))


def test_a_family_has_a_target_of_its_own_or_the_default() -> None:
    assert (Family("a", "50ms", (SMALL,)).attainment, Family("a", "50ms", (SMALL,), attainment=0.9).attainment) == (
        0.995,
        0.9,
    )


def test_a_family_needs_variants_that_differ_in_name() -> None:
    with pytest.raises(ValueError, match="at least one variant"):
        Family("a", "50ms", ())
    with pytest.raises(ValueError, match="variant of `a` `a-s` is listed twice"):
        Family("a", "50ms", (SMALL, Variant("a-s", 0.9, "other.onnx")))


def test_a_catalog_needs_families_that_differ_in_name_and_the_right_format() -> None:
    family = make_family("a", {"a-s": 0.8})
    with pytest.raises(ValueError, match="at least one"):
        make_catalog()
    with pytest.raises(ValueError, match="family `a` is listed twice"):
        make_catalog(family, make_family("a", {"other": 0.9}))
    with pytest.raises(ValueError, match="`format` is 2; this version reads 1"):
        Catalog(format=2, families=(family,))


def test_the_same_variant_name_in_two_families_is_fine() -> None:
    catalog = make_catalog(make_family("a", {"small": 0.8}), make_family("b", {"small": 0.7}, slo="1s"))
    assert catalog.names == ("a", "b")
    assert catalog.slo_s() == pytest.approx({"a": 0.1, "b": 1.0})
    assert catalog.family("b").variant("small").accuracy == 0.7


def test_messages_name_the_family_of_variants_that_are_named_alike() -> None:
    """`find` takes what they say."""
    both = (SMALL, Variant("a-l", 0.9, "a-l.onnx"))
    catalog = Catalog(1, (Family("a", "50ms", both), Family("b", "50ms", (SMALL,))))
    labels = [catalog.label(VariantKey(family.name, variant.name)) for family, variant in catalog.variants]
    assert labels == ["a/a-s", "a-l", "b/a-s"]
    assert [catalog.find(label) for label in labels] == list(catalog.variants)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    catalog = make_catalog(make_family("a", {"a-s": 0.8, "a-l": 0.9}), make_family("b", {"b-s": 0.7}))
    with pytest.raises(UsageError, match="No family `c`") as caught:
        catalog.family("c")
    assert caught.value.hint == "it has: a, b"
    with pytest.raises(UsageError, match="no variant `a-m`") as caught:
        catalog.family("a").variant("a-m")
    assert caught.value.hint == "it has: a-s, a-l"


def test_the_file_says_family_and_variant_as_toml_tables_do() -> None:
    text = b"""
        format = 1
        [[family]]
        name = "a"
        slo = "50ms"
        [[family.variant]]
        name = "a-s"
        onnx = "a-s.onnx"
        accuracy = 0.8
    """
    catalog = msgspec.toml.decode(text, type=Catalog)
    assert catalog == make_catalog(make_family("a", {"a-s": 0.8}, slo="50ms"))
    with pytest.raises(msgspec.ValidationError, match="unknown field `sloo`"):
        msgspec.toml.decode(text.replace(b"slo =", b"sloo ="), type=Catalog)


class Counting(str):
    """A name that counts how often any is compared."""

    __slots__ = ()
    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counting.comparisons += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_large_catalog_is_checked_in_proportion_to_its_size() -> None:
    names = [Counting(f"v{number}") for number in range(2_000)]
    Family("a", "50ms", tuple(Variant(name, 0.8) for name in names))
    assert Counting.comparisons < 10 * len(names)


def test_a_variant_is_named_with_its_family_where_another_family_has_one_of_that_name() -> None:
    keys = [VariantKey("faces", "large"), VariantKey("plates", "large"), VariantKey("plates", "own")]
    assert variant_labels(keys * 2) == dict(zip(keys, ["faces/large", "plates/large", "own"], strict=True))


STAGES = ("a.1.onnx", "a.2.onnx")


def test_a_multi_exit_model_has_stages_and_a_condition() -> None:
    variant = Variant("a", 0.5, exits=STAGES, stop_when=parse_condition("confidence >= 0.9"))
    assert variant.files == STAGES
    assert Variant("a", 0.5, "a.onnx").files == ("a.onnx",)
    assert Variant("a", 0.5).files == ()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"exits": STAGES}, "has `exits`, and needs `stop_when"),
        ({"stop_when": parse_condition("exit >= 1")}, "needs `exits`"),
        ({"exits": STAGES[:1], "stop_when": parse_condition("exit >= 1")}, "must be 2 to 16 ONNX files"),
        ({"exits": STAGES * 9, "stop_when": parse_condition("exit >= 1")}, "must be 2 to 16 ONNX files"),
        ({"exits": ("a", ""), "stop_when": parse_condition("exit >= 1")}, "exits"),
        ({"exits": STAGES, "stop_when": parse_condition("exit >= 1"), "onnx": "a.onnx"}, "has `exits` and `onnx`"),
        (
            {"exits": STAGES, "stop_when": parse_condition("confidence >= 1 or latency >= 0.009")},
            r"compares `latency`; .* may compare `confidence` and `exit`, .* change the condition .* live",
        ),
    ],
)
def test_a_multi_exit_model_that_makes_no_sense_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        checked(Variant("a", 0.5, **fields))
