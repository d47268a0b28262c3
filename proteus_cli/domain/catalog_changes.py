"""The differences between two catalogs of a server, and the names of variants after a change.

A variant whose model has changed is another variant: both are there until the new one has taken over. The new one has
its *version* behind its name, as in ``resnet50@2``. The version is the directory of its model if that is a number, as
in ``resnet50/2/model.onnx``. Otherwise it is the first digits of the digest of the model. A model that was served
before, and is not gone yet, gets its earlier name again.

The versions of a model, as clients name them, and the variants behind each. A model is a family for clients.

Version ``1``, and none, is any variant. Each other version is one or more variants of the family.

* The name of a variant, as in answers, is that variant: ``resnet50``, ``resnet50@2``.
* A version stands for all variants that have it: ``2`` is ``resnet50@2`` and ``resnet18@2``.

The version of a variant stands behind its name, as in ``resnet50@2``. Otherwise it is the directory of its model if
that is a number, as in ``resnet50/2/model.onnx``. Both are the same after a restart. Other variants have no version.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from proteus_cli.domain.base import Value
from proteus_cli.domain.catalog import VERSION_MARK, Catalog, Family, Variant, VariantKey, is_name, name_in_catalog
from proteus_cli.domain.request import ANY_VERSION, AskedVersion
from proteus_cli.units import counted


def numbered_directory(variant: Variant) -> str:
    """The directory of a variant's model where its name is a number; else empty."""
    directory = PurePosixPath(variant.files[0]).parent.name if variant.files else ""
    return directory if directory.isdecimal() and is_name(directory) else ""


def version_in_name(name: str) -> str:
    """The version in the name of a variant; empty if it has none."""
    return name.partition(VERSION_MARK)[2]


def versions_of(variants: Iterable[Variant]) -> dict[str, str]:
    """The version of each variant, by its name; empty where it has none."""
    return {each.name: version_in_name(each.name) or numbered_directory(each) for each in variants}


def asked_versions(versions: Mapping[str, str]) -> dict[str, AskedVersion]:
    """All that clients may ask for beside `ANY_VERSION`, where variants have these ``versions``.

    A name that is a variant, and also the version of others, stands for the variant.
    """
    found: dict[str, set[str]] = {}
    for variant, version in sorted(versions.items()):
        if version:
            found.setdefault(version, set()).add(variant)
    found |= {variant: {variant} for variant in sorted(versions)}
    found.pop(ANY_VERSION, None)
    return {name: AskedVersion(name, frozenset(variants)) for name, variants in found.items()}


TOLD = 3
"""Changes that a reason of a plan names."""

DIGEST_DIGITS = 8
"""Digits of a digest that make a version."""

Digests = dict[str, dict[str, str]]
"""By family and variant, the digest of the model; only of variants that have one."""


class CatalogContent(Value, frozen=True):
    """A catalog, and the models of its variants."""

    catalog: Catalog
    digests: Digests

    @classmethod
    def served(cls, catalog: Catalog, digests: Digests) -> "CatalogContent":
        """Without what no server needs, and no client is told: how models were trained."""
        families = tuple(msgspec.structs.replace(family, task=None) for family in catalog.families)
        return cls(msgspec.structs.replace(catalog, families=families), digests)

    def digest(self, key: VariantKey) -> str | None:
        """The digest of a variant's model; None where it has no model."""
        return self.digests.get(key.family, {}).get(key.variant)

    @property
    def variants(self) -> list[VariantKey]:
        """The keys of all variants, in the order of the catalog."""
        return [VariantKey(family.name, variant.name) for family, variant in self.catalog.variants]


class CatalogChange(Value, frozen=True):
    """One difference: of a family, where ``variant`` is empty, or of one of its variants; ``what`` differs there.

    Names are as in the catalog file. Without a family, the difference is in the catalog as a whole.
    """

    family: str
    variant: str
    kind: Literal["new", "changed", "removed"]
    what: str = ""

    def __str__(self) -> str:
        name = "/".join(filter(None, (self.family, self.variant))) or "the catalog"
        return f"{name} is {self.kind}" + (f" ({self.what})" if self.what else "")


@dataclass(frozen=True, slots=True)
class Succession:
    """The next content of a server; ``names`` has the name there of each variant of the catalog file.

    ``retired`` are the variants that were served, and are not any more.
    """

    content: CatalogContent
    names: Mapping[VariantKey, str]
    changes: tuple[CatalogChange, ...]
    retired: frozenset[VariantKey]


def succession(served: CatalogContent, read: CatalogContent, retiring: Mapping[VariantKey, str]) -> Succession:
    """From what is ``served`` to what was ``read``; variants that are ``retiring`` are there yet, with their models."""
    known = {**retiring} | {key: found for key in served.variants if (found := served.digest(key)) is not None}
    taken = {*served.variants, *retiring}
    names = {VariantKey(f.name, v.name): _name(f, v, read, known, taken) for f, v in read.catalog.variants}
    content = _renamed(read, names)
    retired = frozenset(served.variants) - frozenset(content.variants)
    return Succession(content, names, tuple(changes(served, read)), retired)


def changes(before: CatalogContent, after: CatalogContent) -> Iterator[CatalogChange]:
    """The differences, by the names of the catalog files, in the order of the later one; removed entries come last."""
    was = {family.name: family for family in before.catalog.families}
    if before.catalog.price_per_hour != after.catalog.price_per_hour:
        yield CatalogChange("", "", "changed", "price_per_hour")
    for family in after.catalog.families:
        if family.name in was:
            yield from _of_family(was[family.name], family, before, after)
        else:
            yield CatalogChange(family.name, "", "new")
    for name in was:
        if name not in after.catalog.names:
            yield CatalogChange(name, "", "removed")


def in_words(changes: Sequence[CatalogChange]) -> str:
    """The first changes, and how many there are besides."""
    told = "; ".join(map(str, changes[:TOLD]))
    return told if len(changes) <= TOLD else f"{told}; {counted(len(changes) - TOLD, 'change')} more"


def _of_family(was: Family, now: Family, before: CatalogContent, after: CatalogContent) -> Iterator[CatalogChange]:
    if what := _fields_that_differ(was, now, {"variants", "task"}):
        yield CatalogChange(now.name, "", "changed", what)
    old = {name_in_catalog(variant.name): variant for variant in was.variants}
    new = {variant.name: variant for variant in now.variants}
    for name, variant in new.items():
        if name not in old:
            yield CatalogChange(now.name, name, "new")
            continue
        digests = before.digest(VariantKey(was.name, old[name].name)), after.digest(VariantKey(now.name, name))
        is_same_model = digests[0] == digests[1]
        parts = ["its model"] if not is_same_model else []
        parts += filter(None, [_fields_that_differ(old[name], variant, {"name", "onnx", "exits"})])
        if parts:
            yield CatalogChange(now.name, name, "changed", ", ".join(parts))
    for name in old:
        if name not in new:
            yield CatalogChange(now.name, name, "removed")


def _fields_that_differ(was: Value, now: Value, apart_from: Collection[str]) -> str:
    fields = (each for each in was.__struct_fields__ if each not in apart_from)
    return ", ".join(each for each in fields if getattr(was, each) != getattr(now, each))


def _name(
    family: Family,
    variant: Variant,
    read: CatalogContent,
    known: Mapping[VariantKey, str],
    taken: Collection[VariantKey],
) -> str:
    """The name of a variant beside all that are served."""
    plain = VariantKey(family.name, variant.name)
    digest = read.digest(plain)
    if digest is None:
        return plain.variant
    if (same := _with_model(plain, digest, known)) is not None:
        return same
    if not any(key.family == plain.family and name_in_catalog(key.variant) == plain.variant for key in taken):
        return plain.variant
    for version in (numbered_directory(variant) or digest[:DIGEST_DIGITS], digest[:DIGEST_DIGITS], digest):
        name = f"{plain.variant}{VERSION_MARK}{version}"
        if VariantKey(family.name, name) not in taken:
            return name
    raise AssertionError("a digest is taken, and is not known")


def _with_model(plain: VariantKey, digest: str, known: Mapping[VariantKey, str]) -> str | None:
    """The name of a version of a variant that has this model."""
    versions = [key.variant for key, found in known.items() if found == digest and key.family == plain.family]
    return next((name for name in versions if name_in_catalog(name) == plain.variant), None)


def _renamed(content: CatalogContent, names: Mapping[VariantKey, str]) -> CatalogContent:
    families = tuple(
        msgspec.structs.replace(
            family,
            variants=tuple(
                msgspec.structs.replace(variant, name=names[VariantKey(family.name, variant.name)])
                for variant in family.variants
            ),
        )
        for family in content.catalog.families
    )
    digests: Digests = {}
    for key, name in names.items():
        if (digest := content.digest(key)) is not None:
            digests.setdefault(key.family, {})[name] = digest
    return CatalogContent(msgspec.structs.replace(content.catalog, families=families), digests)
