"""What clients call the versions of a model, which is a family for them, and which variants they mean by that.

Version ``1``, and none, is any variant. Each other version is one or more variants of the family:

* the name of a variant, as answers tell it, is that variant: ``resnet50``, ``resnet50@2``;
* a version of variants is all that have it: ``2`` is ``resnet50@2`` and ``resnet18@2``.

The version of a variant stands behind its name, as in ``resnet50@2``. Where none stands there, it is the directory of
its model where that is a number, as in ``resnet50/2/model.onnx``, and so the same after a new start; else it has none.
"""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from proteus_cli.domain.catalog.catalog import VERSION_MARK, Variant, is_name
from proteus_cli.domain.request import ANY_VERSION, AskedVersion


def numbered_directory(variant: Variant) -> str:
    """The directory of a variant's model where its name is a number; else empty."""
    directory = PurePosixPath(variant.files[0]).parent.name if variant.files else ""
    return directory if directory.isdecimal() and is_name(directory) else ""


def version_in_name(name: str) -> str:
    """What stands behind the name of a variant; empty where nothing does."""
    return name.partition(VERSION_MARK)[2]


def versions_of(variants: Iterable[Variant]) -> dict[str, str]:
    """The version of each variant, by its name; empty where it has none."""
    return {each.name: version_in_name(each.name) or numbered_directory(each) for each in variants}


def asked_versions(versions: Mapping[str, str]) -> dict[str, AskedVersion]:
    """All that clients may ask for beside `ANY_VERSION`, where variants have these ``versions``.

    A name that is that of a variant, and the version of others, is the variant.
    """
    found: dict[str, set[str]] = {}
    for variant, version in sorted(versions.items()):
        if version:
            found.setdefault(version, set()).add(variant)
    found |= {variant: {variant} for variant in sorted(versions)}
    found.pop(ANY_VERSION, None)
    return {name: AskedVersion(name, frozenset(variants)) for name, variants in found.items()}
