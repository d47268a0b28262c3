"""The rules of a plan that stand in the catalog."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from proteus_cli.domain.catalog.catalog import Catalog, name_in_catalog
from proteus_cli.domain.plan.rules import DeviceVariant, Reserved, Rules


def with_catalog(rules: Rules, catalog: Catalog) -> Rules:
    """``rules`` and those of the catalog; where both limit the same, ``rules`` win."""
    floors = {f.name: f.min_accuracy for f in catalog.families if f.min_accuracy is not None}
    expected = {f.name: f.min_expected_accuracy for f in catalog.families if f.min_expected_accuracy is not None}
    shares = {f.name: f.max_share for f in catalog.families if f.max_share is not None}
    reserved = [Reserved(device, f.name) for f in catalog.families for device in f.reserved]
    banned = [DeviceVariant(device, f.name, v.name) for f, v in catalog.variants for device in v.banned]
    pinned = [DeviceVariant(device, f.name, v.name) for f, v in catalog.variants for device in v.pinned]
    return msgspec.structs.replace(
        rules,
        min_accuracy={**floors, **rules.min_accuracy},
        min_expected_accuracy={**expected, **rules.expected_accuracy} or UNSET,
        max_share={**shares, **rules.max_share},
        reserved=tuple(dict.fromkeys((*rules.reserved, *reserved))),
        banned=tuple(dict.fromkeys((*rules.banned, *banned))),
        pinned=tuple(dict.fromkeys((*rules.pinned, *pinned))),
        **_of_policies(rules, catalog),
    )


def _of_policies(rules: Rules, catalog: Catalog) -> dict[str, object]:
    """What families prefer and the bounds of their answers, as fields of `Rules`."""
    preferred = {f.name: f.policy.prefer for f in catalog.families if f.policy.prefer != "accuracy"}
    found: dict[str, object] = {"prefer": {**preferred, **({} if rules.prefer is UNSET else rules.prefer)} or UNSET}
    for name, of_rules in rules.amount_bounds.items():
        of_catalog = {f.name: bound for f in catalog.families if (bound := getattr(f.policy, name)) is not None}
        found[name] = {**of_catalog, **of_rules} or UNSET
    return found


def with_variants_of(rules: Rules, catalog: Catalog, before: Iterable[DeviceVariant]) -> Rules:
    """Rules that were made for an earlier catalog: with the names, bans and pins of this one.

    ``before`` are the bans and pins that stood in catalogs, and not in the rules themselves. Those of variants that are
    gone are left out.
    """
    names = {(f.name, name_in_catalog(v.name)): v.name for f, v in catalog.variants}
    stood, own = {each.in_catalog for each in before}, with_catalog(Rules(), catalog)

    def following(pairs: Sequence[DeviceVariant], of_catalog: Sequence[DeviceVariant]) -> tuple[DeviceVariant, ...]:
        kept = [
            DeviceVariant(each.device, each.family, names[each.family, each.variant])
            for each in (pair.in_catalog for pair in pairs)
            if each not in stood and (each.family, each.variant) in names
        ]
        return tuple(dict.fromkeys((*kept, *of_catalog)))

    return msgspec.structs.replace(
        rules, banned=following(rules.banned, own.banned), pinned=following(rules.pinned, own.pinned)
    )


_NO_RULES = Rules()
_BY_FAMILY = (
    "min_accuracy", "min_expected_accuracy", "max_share", "prefer", "max_latency_s", "max_energy_j",
    "max_cost_per_million",
)  # fmt: skip


class FamilyLimit(NamedTuple):
    """A rule of a family that stands in a catalog: which one, and its value, or the device that is reserved."""

    what: str
    family: str | None
    value: Any


def family_limits(catalog: Catalog) -> set[FamilyLimit]:
    """The limits of families that stand in a catalog."""
    rules = with_catalog(_NO_RULES, catalog)
    found = {
        FamilyLimit(what, family, value) for what in _BY_FAMILY for family, value in _by_family(rules, what).items()
    }
    return found | {FamilyLimit("reserved", each.family, each.device) for each in rules.reserved}


def with_families_of(rules: Rules, catalog: Catalog, before: Collection[FamilyLimit]) -> Rules:
    """Rules that were made for an earlier catalog, with those of families as they stand in this one.

    ``before`` are those that stood in catalogs, and not in the rules themselves. Those of families that are gone are
    left out.
    """
    own = with_catalog(_NO_RULES, catalog)
    found: dict[str, Any] = {}
    for what in _BY_FAMILY:
        kept = {
            family: value
            for family, value in _by_family(rules, what).items()
            if family in catalog.names and FamilyLimit(what, family, value) not in before
        }
        found[what] = {**_by_family(own, what), **kept} or getattr(_NO_RULES, what)
    reserved = [
        each
        for each in rules.reserved
        if (each.family is None or each.family in catalog.names)
        and FamilyLimit("reserved", each.family, each.device) not in before
    ]
    return msgspec.structs.replace(rules, reserved=tuple(dict.fromkeys((*reserved, *own.reserved))), **found)


def _by_family(rules: Rules, what: str) -> dict[str, Any]:
    found = getattr(rules, what)
    return {} if found is UNSET else found
