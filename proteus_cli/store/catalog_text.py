"""Changes to the text of a catalog: what users wrote stays as it is, with comments, order and layout.

Each function returns the new text. `require_says` checks that the text says what is meant, before it is written.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomlkit
from tomlkit.items import AoT, Comment, Table, Whitespace

from proteus_cli.domain.base import Value
from proteus_cli.domain.catalog import DEFAULT_POLICY, Catalog, Family, Task, Variant
from proteus_cli.domain.stages.cascade import DISCRIMINATOR, MARGIN, discriminator_of
from proteus_cli.errors import ArtefactError
from proteus_cli.store.catalog_files import parse_catalog


def new_text(catalog: Catalog, *, made_by: str) -> str:
    """A catalog's families and variants without their limits. ``made_by`` is the command that writes it."""
    text = f"# Made by `{made_by}`. docs/formats.md says what else may stand here.\nformat = 1\n"
    for family in catalog.families:
        text = with_family(text, family)
    return text


def with_family(text: str, family: Family) -> str:
    """With one more family at the end, without its limits."""
    return "\n".join([text.rstrip("\n"), *_family_lines(family), ""])


def with_variants(text: str, family: str, after: str, added: Sequence[Variant]) -> str:
    """With more variants of a family behind the one that is named ``after``, without their limits."""
    for variant in added:
        text = with_variant(text, family, after, variant)
        after = variant.name
    return text


def with_variant(text: str, family: str, after: str, added: Variant) -> str:
    """With one more variant of a family behind the one that is named ``after``, without its limits."""
    document: Any = tomlkit.parse(text)
    variants = next(each for each in document["family"] if each["name"] == family)["variant"]
    place = [each["name"] for each in variants].index(after)
    new = tomlkit.table() if isinstance(variants, AoT) else tomlkit.inline_table()
    new.update({name: tomlkit.value(toml_of(each)) for name, each in _fields(added).items()})
    if isinstance(new, Table):
        _move_end(variants[place], new)
    variants.insert(place + 1, new)
    return tomlkit.dumps(document)


def with_models(
    text: str, family: str, models: Mapping[str, tuple[str, float]], *, split: str | None, data: str
) -> str:
    """With other models of a family's variants: the path and the accuracy of each, measured on ``split``.

    ``data`` is what the family's task is trained on from now on.
    """
    document: Any = tomlkit.parse(text)
    table = next(each for each in document["family"] if each["name"] == family)
    for variant in table["variant"]:
        if variant["name"] in models:
            variant["onnx"], variant["accuracy"] = models[variant["name"]]
            variant.pop("estimated", None)
    if split is not None:
        table["eval"] = split
    table["task"]["data"] = data
    return tomlkit.dumps(document)


def with_files(text: str, family: str, changed: Variant) -> str:
    """With the ONNX files of the variant ``changed``."""
    document: Any = tomlkit.parse(text)
    variants = next(each for each in document["family"] if each["name"] == family)["variant"]
    variant = next(each for each in variants if each["name"] == changed.name)
    if changed.exits:
        variant["exits"] = list(changed.exits)
    else:
        variant["onnx"] = changed.onnx
    return tomlkit.dumps(document)


def with_outer_paths_from(text: str, directory: Path) -> str:
    """The catalog of a ``directory`` for another one: paths that lead out of it are absolute."""

    def outer(path: str) -> str:
        is_inside = not os.path.normpath(path).startswith(os.pardir)
        return path if is_inside else os.path.normpath(directory.absolute() / path)

    document: Any = tomlkit.parse(text)
    for family in document["family"]:
        for table, names in ((family, ("eval", "labels")), *((each, ("onnx",)) for each in family["variant"])):
            for name in names:
                if name in table:
                    table[name] = outer(table[name])
        for variant in family["variant"]:
            if "exits" in variant:
                variant["exits"] = [outer(path) for path in variant["exits"]]
        discriminator = discriminator_of(family.get("confidence", MARGIN))
        if discriminator is not None:
            family["confidence"] = DISCRIMINATOR + outer(discriminator)
    return tomlkit.dumps(document)


def require_says(text: str, meant: Catalog, path: Path) -> None:
    """Raise `ArtefactError` unless the new text of ``path`` is the catalog ``meant``."""
    try:
        is_meant = parse_catalog(text.encode(), path) == meant
    except ArtefactError:
        is_meant = False
    if not is_meant:
        raise ArtefactError(
            f"Can't add to `{path}`, as it is written.",
            hint="write each family as a [[family]], and each variant as a [[family.variant]] of its own",
        )


def _family_lines(family: Family) -> Iterator[str]:
    yield from ("", "[[family]]", f"name = {toml_of(family.name)}", f"slo = {toml_of(family.slo)}")
    if family.eval is not None:
        yield f"eval = {toml_of(family.eval)}"
    if family.confidence != MARGIN:
        yield f"confidence = {toml_of(family.confidence)}"
    for name, values in (("policy", _other_than(DEFAULT_POLICY, family.policy)), ("task", _given(family.task))):
        if values:
            yield from ("", f"[family.{name}]", *(f"{key} = {toml_of(value)}" for key, value in values.items()))
    for variant in family.variants:
        yield from (
            "",
            "[[family.variant]]",
            *(f"{name} = {toml_of(value)}" for name, value in _fields(variant).items()),
        )


def _other_than(default: Value, value: Value) -> "dict[str, TomlValue]":
    """The fields of a value that differ from another one."""
    fields = {name: getattr(value, name) for name in value.__struct_fields__}
    return {name: each for name, each in fields.items() if each != getattr(default, name)}


def _given(task: Task | None) -> "dict[str, TomlValue]":
    """The fields of a task that have a value."""
    fields = {name: getattr(task, name) for name in Task.__struct_fields__} if task is not None else {}
    return {name: each for name, each in fields.items() if each is not None}


TomlValue = str | float | bool | list[Any] | dict[str, Any]


def _fields(variant: Variant) -> dict[str, TomlValue]:
    fields: dict[str, TomlValue] = {"name": variant.name}
    if variant.onnx is not None:
        fields["onnx"] = variant.onnx
    if variant.exits:
        fields["exits"] = list(variant.exits)
        fields["stop_when"] = msgspec.to_builtins(variant.stop_when)
    fields["accuracy"] = variant.accuracy
    if variant.estimated:
        fields["estimated"] = True
    return fields


def toml_of(value: TomlValue) -> str:
    """A value on one line. Strings, numbers and truth values of JSON are valid in TOML."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {toml_of(each)}' for name, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_of, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _move_end(table: Table, new: Table) -> None:
    """Move what follows the last blank line of a table, such as the comment on the next table, behind the new one."""
    body = table.value.body
    last = max(place for place, (key, _) in enumerate(body) if key is not None)
    blank = next((p for p in range(last + 1, len(body)) if isinstance(body[p][1], Whitespace)), len(body))
    rest = [item for _, item in body[blank:] if isinstance(item, Comment | Whitespace)]
    del body[blank:]
    table.add(tomlkit.nl())
    for item in rest:
        new.add(item)
