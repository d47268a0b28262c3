"""Reads the catalog, and the names of the classes that it refers to."""

from pathlib import Path
from typing import Any

from proteus_cli.domain.base import require
from proteus_cli.domain.catalog import VERSION_MARK, Catalog
from proteus_cli.errors import ArtefactError
from proteus_cli.input_files import LABELS, converted, decode_toml, decoded, read_text

MAX_LABEL_BYTES = 256


def parse_catalog(content: bytes, path: Path) -> Catalog:
    """Decode a catalog strictly from TOML. Raises `ArtefactError` that names ``path``."""
    hint = "docs/formats.md describes the catalog; `proteus init` writes an example"
    what = f"`{path}` is not a valid catalog"
    return decoded(content, _catalog, what, hint=hint)


def _catalog(content: bytes) -> Catalog:
    """Raises what `decoded` expects; an SLO without a unit is met with one that has it."""
    tree = decode_toml(content, dict[str, Any])
    families = tree.get("family")
    for family in (each for each in families if isinstance(each, dict)) if isinstance(families, list) else ():
        slo = family.get("slo")
        has_unit = not isinstance(slo, int | float) or isinstance(slo, bool)
        require(has_unit, f'slo of `{family.get("name")}` has no unit: write "{slo}ms", or with the unit meant')
    catalog = converted(tree, Catalog)
    for name in (variant.name for _, variant in catalog.variants):
        require(VERSION_MARK not in name, f"variant name `{name}` must be letters, digits, `.`, `_`, `-`")
    return catalog


def read_labels(path: Path) -> tuple[str, ...]:
    """The lines of a file, without their ends. Raises `ArtefactError`."""
    hint = "it has the name of a class on each line, in the order of the model's scores"
    labels = read_text(path, LABELS, hint=hint).removesuffix("\n").split("\n")
    for number, label in enumerate(labels, start=1):
        if not 0 < len(label.rstrip("\r").encode()) <= MAX_LABEL_BYTES:
            raise ArtefactError(f"`{path}`, line {number}: a label has 1 to {MAX_LABEL_BYTES} bytes.", hint=hint)
    return tuple(label.rstrip("\r") for label in labels)
