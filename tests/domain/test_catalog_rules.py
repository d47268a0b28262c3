"""Rules of a plan, once the catalog has other names, bans and pins of variants."""

from typing import Any, get_type_hints

import msgspec
from builders import make_catalog, make_family

from proteus_cli.domain import rules as catalog_rules
from proteus_cli.domain.catalog import Catalog, Family, FamilyPolicy
from proteus_cli.domain.rules import (
    DeviceVariant,
    Reserved,
    Rules,
    following_catalog,
    rules_of,
    with_catalog,
)


def catalog(banned: dict[str, tuple[str, ...]], *names: str) -> Catalog:
    family = make_family("a", dict.fromkeys(names, 0.5))
    variants = tuple(msgspec.structs.replace(each, banned=banned.get(each.name, ())) for each in family.variants)
    return make_catalog(msgspec.structs.replace(family, variants=variants))


def bans(rules: Rules) -> list[str]:
    return [str(each) for each in rules.banned]


def test_bans_follow_a_variant_to_its_next_version_and_end_with_it() -> None:
    rules = Rules(banned=(DeviceVariant("gpu0", "a", "m"), DeviceVariant("gpu0", "a", "s")))
    pins = msgspec.structs.replace(rules, pinned=(DeviceVariant("cpu", "a", "m"),))
    found = following_catalog(pins, catalog({}, "m@2"), [])
    assert (bans(found), [str(each) for each in found.pinned]) == (["gpu0:a/m@2"], ["cpu:a/m@2"])
    assert following_catalog(found, catalog({}, "m@2"), []) == found


def test_those_of_an_earlier_catalog_are_replaced_by_those_of_the_present_one() -> None:
    first, second = catalog({"m": ("gpu0",)}, "s", "m"), catalog({"m@2": ("gpu1",)}, "s", "m@2")
    rules = with_catalog(Rules(banned=(DeviceVariant("cpu", "a", "s"),)), first)
    stood = rules_of(first) | rules_of(second)
    found = following_catalog(rules, second, stood)
    assert bans(found) == ["cpu:a/s", "gpu1:a/m@2"]
    assert following_catalog(found, second, stood) == found


def test_names_change_in_both() -> None:
    rules = Rules(banned=(DeviceVariant("gpu0", "a", "m"),), pinned=(DeviceVariant("cpu", "a", "s"),))
    found = rules.with_names(lambda key: f"{key.variant}@2")
    assert (bans(found), [str(each) for each in found.pinned]) == (["gpu0:a/m@2"], ["cpu:a/s@2"])


def test_policies_of_a_catalog_are_rules_where_the_rules_say_nothing_else() -> None:
    family = make_family("a", {"a-s": 0.8}, slo="50ms")
    policies = {
        "a": FamilyPolicy("latency", "20ms", 2.0, 3.0),
        "b": FamilyPolicy("energy"),
        "c": FamilyPolicy(),
        "d": FamilyPolicy("cost"),
    }
    families = (msgspec.structs.replace(family, name=name, policy=policy) for name, policy in policies.items())
    given = Rules(prefer={"b": "accuracy"}, max_energy_j={"a": 1.0})
    found = with_catalog(given, make_catalog(*families))
    assert found.prefer == {"a": "latency", "b": "accuracy", "d": "cost"}
    assert found.others_preferred == {"a": "latency", "d": "cost"}
    assert (found.max_latency_s, found.max_energy_j, found.max_cost_per_million) == (
        {"a": 0.02},
        {"a": 1.0},
        {"a": 3.0},
    )


def test_without_policies_rules_are_as_before() -> None:
    """So are plans, to the last byte."""
    rules = with_catalog(Rules(), make_catalog(make_family("a", {"a-s": 0.8})))
    written = msgspec.json.decode(msgspec.json.encode(rules))
    assert not written.keys() & {"prefer", "max_latency_s", "max_energy_j", "max_cost_per_million"}


def test_limits_of_families_follow_the_catalog_and_those_of_the_plan_itself_stay() -> None:
    def limited(name: str, **limits: Any) -> Family:
        return msgspec.structs.replace(make_family(name, {"m": 0.5}), **limits)

    first = make_catalog(
        limited("a", min_accuracy=0.5, max_share=0.4, policy=FamilyPolicy("latency", "20ms")),
        limited("b", reserved=("gpu0",)),
    )
    second = make_catalog(
        limited("a", min_accuracy=0.6, policy=FamilyPolicy("energy")),
        limited("c", reserved=("gpu1",), min_expected_accuracy=0.8),
    )
    of_plan = Rules(min_accuracy={"b": 0.2}, max_share={"c": 0.9}, reserved=(Reserved("cpu9"),))
    stood = rules_of(first)
    found = following_catalog(with_catalog(of_plan, first), second, stood)
    assert found == with_catalog(Rules(max_share={"c": 0.9}, reserved=(Reserved("cpu9"),)), second)
    assert following_catalog(found, second, stood | rules_of(second)) == found


def test_every_rule_by_family_follows_the_catalog() -> None:
    by_family = {name for name, kind in get_type_hints(Rules).items() if "dict[str" in str(kind)}
    assert by_family == set(catalog_rules._OF_FAMILIES)
