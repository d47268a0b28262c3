"""The table [family.policy] of a catalog."""

from typing import Any

import msgspec
import pytest

from proteus_cli.domain.base import checked
from proteus_cli.domain.catalog import PREFERENCES, Catalog, Family, FamilyPolicy, Variant

SMALL = Variant("a-s", 0.8, "a-s.onnx")
TEXT = """
format = 1
[[family]]
name = "a"
slo = "50ms"
[family.policy]
prefer = "latency"
max_latency = "20ms"
max_energy_j = 2
max_cost_per_million = 3.5
[[family.variant]]
name = "a-s"
accuracy = 0.8
[[family]]
name = "b"
slo = "50ms"
[[family.variant]]
name = "b-s"
accuracy = 0.8
"""


def test_a_table_of_a_family_is_its_policy_and_without_it_prefers_accuracy() -> None:
    catalog = msgspec.toml.decode(TEXT, type=Catalog)
    assert catalog.family("a").policy == FamilyPolicy("latency", "20ms", 2.0, 3.5)
    assert catalog.family("a").policy.max_latency_s == pytest.approx(0.02)
    assert catalog.family("b").policy == FamilyPolicy("accuracy", None, None, None)


@pytest.mark.parametrize("prefer", PREFERENCES)
def test_each_preference_can_be_written(prefer: str) -> None:
    text = TEXT.replace('"latency"', f'"{prefer}"')
    assert msgspec.toml.decode(text, type=Catalog).family("a").policy.prefer == prefer


@pytest.mark.parametrize(
    ("was", "written", "told"),
    [
        ('"latency"', '"speed"', r"Invalid enum value 'speed' - at `\$\.family\[0\]\.policy\.prefer`"),
        ("max_energy_j", "max_energy", r"unknown field `max_energy` - at `\$\.family\[0\]\.policy`"),
        ('"20ms"', '"20"', "max_latency: "),
    ],
)
def test_what_is_not_known_is_named(was: str, written: str, told: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=told):
        msgspec.toml.decode(TEXT.replace(was, written), type=Catalog)


@pytest.mark.parametrize("bound", ["max_energy_j", "max_cost_per_million"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bound_is_a_finite_amount_above_zero(bound: str, value: float) -> None:
    fields: dict[str, Any] = {bound: value}
    with pytest.raises(ValueError, match=bound):
        checked(FamilyPolicy(**fields))


def test_a_latency_is_within_the_slo() -> None:
    assert Family("a", "50ms", (SMALL,), policy=FamilyPolicy(max_latency="50ms")).policy.max_latency_s == 0.05
    with pytest.raises(ValueError, match="max_latency of `a` must be at most its slo, 50ms"):
        Family("a", "50ms", (SMALL,), policy=FamilyPolicy(max_latency="51ms"))
    with pytest.raises(ValueError, match="max_latency must be above zero"):
        FamilyPolicy(max_latency="0ms")
