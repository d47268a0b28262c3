"""Rules of a plan, once the catalog has other names, bans and pins of variants."""

import msgspec
from builders import make_catalog, make_family

from proteus_cli.domain.catalog import Catalog
from proteus_cli.domain.rules import DeviceVariant, Rules, with_catalog, with_variants_of


def catalog(banned: dict[str, tuple[str, ...]], *names: str) -> Catalog:
    family = make_family("a", dict.fromkeys(names, 0.5))
    variants = tuple(msgspec.structs.replace(each, banned=banned.get(each.name, ())) for each in family.variants)
    return make_catalog(msgspec.structs.replace(family, variants=variants))


def bans(rules: Rules) -> list[str]:
    return [str(each) for each in rules.banned]


def test_bans_follow_a_variant_to_its_next_version_and_end_with_it() -> None:
    rules = Rules(banned=(DeviceVariant("gpu0", "a", "m"), DeviceVariant("gpu0", "a", "s")))
    pins = msgspec.structs.replace(rules, pinned=(DeviceVariant("cpu", "a", "m"),))
    found = with_variants_of(pins, catalog({}, "m@2"), [])
    assert (bans(found), [str(each) for each in found.pinned]) == (["gpu0:a/m@2"], ["cpu:a/m@2"])
    assert with_variants_of(found, catalog({}, "m@2"), []) == found


def test_those_of_an_earlier_catalog_are_replaced_by_those_of_the_present_one() -> None:
    first, second = catalog({"m": ("gpu0",)}, "s", "m"), catalog({"m@2": ("gpu1",)}, "s", "m@2")
    rules = with_catalog(Rules(banned=(DeviceVariant("cpu", "a", "s"),)), first)
    stood = [*with_catalog(Rules(), first).banned, *with_catalog(Rules(), second).banned]
    found = with_variants_of(rules, second, stood)
    assert bans(found) == ["cpu:a/s", "gpu1:a/m@2"]
    assert with_variants_of(found, second, stood) == found


def test_names_change_in_both() -> None:
    rules = Rules(banned=(DeviceVariant("gpu0", "a", "m"),), pinned=(DeviceVariant("cpu", "a", "s"),))
    found = rules.with_names(lambda key: f"{key.variant}@2")
    assert (bans(found), [str(each) for each in found.pinned]) == (["gpu0:a/m@2"], ["cpu:a/s@2"])
