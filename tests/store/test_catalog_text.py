"""Catalogs change by what is added to them: comments, order and layout stay."""

from pathlib import Path

import msgspec
import pytest

from proteus_cli.domain.catalog import Catalog, Family, FamilyPolicy, Task, Variant
from proteus_cli.errors import ArtefactError
from proteus_cli.store import parse_catalog
from proteus_cli.store.catalog_text import (
    new_text,
    require_says,
    with_family,
    with_files,
    with_outer_paths_from,
    with_variant,
    with_variants,
)

PATH = Path("catalog.toml")
COMMENTED = """\
# All that we serve.
format = 1

[[family]]  # the first
name = "a"
slo = "1s"

# The small one.
[[family.variant]]
name = "a-s"   # quick
accuracy = 0.5
# trained in a hurry

# The large one.
[[family.variant]]
name = "a-l"
accuracy = 0.9

# Another family.
[[family]]
name = "b"
slo = "1s"
[[family.variant]]
name = "b-s"
accuracy = 0.7"""
NEW = Variant("new", 0.4, "new.onnx")
TEXT_OF_NEW = '[[family.variant]]\nname = "new"\nonnx = "new.onnx"\naccuracy = 0.4\n'


@pytest.mark.parametrize(
    ("family", "after", "before_it", "behind_it"),
    [
        ("a", "a-s", "# trained in a hurry\n\n", "\n# The large one.\n"),
        ("a", "a-l", "accuracy = 0.9\n\n", "\n# Another family.\n"),
        ("b", "b-s", "accuracy = 0.7\n", ""),
    ],
)
def test_comments_stay_with_what_they_are_about(family: str, after: str, before_it: str, behind_it: str) -> None:
    text = with_variant(COMMENTED, family, after, NEW)
    assert f"{before_it}{TEXT_OF_NEW}{behind_it}" in text
    assert text.replace(TEXT_OF_NEW, "").split() == COMMENTED.split()
    found = parse_catalog(text.encode(), PATH)
    old = parse_catalog(COMMENTED.encode(), PATH)
    variants = found.family(family).variants
    assert [v.name for v in variants][[v.name for v in variants].index(after) + 1] == "new"
    without = msgspec.structs.replace(found.family(family), variants=tuple(v for v in variants if v.name != "new"))
    assert without == old.family(family)


def test_families_that_are_written_as_inline_tables_take_one_too() -> None:
    inline = 'format = 1\nfamily = [{name = "a", slo = "1s", variant = [{name = "a-s", accuracy = 0.5}]}]\n'
    found = parse_catalog(with_variant(inline, "a", "a-s", NEW).encode(), PATH)
    assert found.family("a").variants == (Variant("a-s", 0.5), NEW)


def test_several_variants_stand_in_their_order() -> None:
    added = (Variant("x", 0.3), Variant("y", 0.2, estimated=True))
    family = parse_catalog(with_variants(COMMENTED, "a", "a-s", added).encode(), PATH).family("a")
    assert [variant.name for variant in family.variants] == ["a-s", "x", "y", "a-l"]
    assert [variant.estimated for variant in family.variants] == [False, False, True, False]


MADE = Family("c", "80ms", (Variant("c-s", 0.9, "c.onnx"), Variant("c-l", 1.0, estimated=True)), eval="c.npz")


def test_a_new_family_stands_at_the_end() -> None:
    text = with_family(COMMENTED, MADE)
    assert text.startswith(COMMENTED)
    assert parse_catalog(text.encode(), PATH).families == (*parse_catalog(COMMENTED.encode(), PATH).families, MADE)


@pytest.mark.parametrize("confidence", ["margin", "output:sure"])
def test_a_new_catalog_says_who_made_it(confidence: str) -> None:
    catalog = Catalog(format=1, families=(msgspec.structs.replace(MADE, confidence=confidence),))
    text = new_text(catalog, made_by="a command")
    assert text.startswith("# Made by `a command`.")
    require_says(text, catalog, PATH)


def test_a_text_that_says_something_else_is_not_written() -> None:
    other = Catalog(format=1, families=(msgspec.structs.replace(MADE, slo="90ms"),))
    with pytest.raises(ArtefactError, match=r"Can't add to `catalog\.toml`, as it is written"):
        require_says(new_text(other, made_by="a command"), Catalog(format=1, families=(MADE,)), PATH)


@pytest.mark.parametrize(
    ("policy", "lines"),
    [
        (FamilyPolicy("energy", "20ms", 1.5, 3.0), 4),
        (FamilyPolicy("latency"), 1),
        (FamilyPolicy(max_energy_j=2.0), 1),
        (FamilyPolicy(), 0),
    ],
    ids=["all", "prefers", "bound", "none"],
)
def test_a_policy_is_written_as_far_as_it_says_anything(policy: FamilyPolicy, lines: int) -> None:
    family = Family("c", "50ms", (NEW,), policy=policy)
    text = with_family(COMMENTED, family)
    require_says(text, Catalog(1, (*parse_catalog(COMMENTED.encode(), PATH).families, family)), PATH)
    _, found, table = text.partition("[family.policy]\n")
    assert (bool(found), len(table.partition("\n\n")[0].splitlines())) == (lines > 0, lines)


def test_a_task_is_written_with_what_it_says_beside_a_policy() -> None:
    task = Task('rows "new".npz', seed=3, retrain="train.py '{data}' {out}")
    family = Family("c", "50ms", (NEW,), policy=FamilyPolicy("latency"), task=task)
    text = with_family(COMMENTED, family)
    require_says(text, Catalog(1, (*parse_catalog(COMMENTED.encode(), PATH).families, family)), PATH)
    assert "rows = " not in text


def test_a_variant_gets_other_files_and_nothing_else_changes() -> None:
    text = COMMENTED.replace('name = "a-s"   # quick\n', 'name = "a-s"   # quick\nonnx = "s/1/s.onnx"  # the first\n')
    changed = with_files(text, "a", Variant("a-s", 0.5, "s/2/s.onnx"))
    assert changed == text.replace("s/1/s.onnx", "s/2/s.onnx")
    stages = COMMENTED.replace('name = "a-s"   # quick\n', 'name = "a-s"\nexits = ["1/a.onnx", "1/b.onnx"]\n')
    stages = stages.replace(
        "accuracy = 0.5\n", 'accuracy = 0.5\nstop_when = {metric = "confidence", op = ">=", value = 0.9}\n'
    )
    moved = parse_catalog(stages.encode(), PATH).family("a").variants[0]
    moved = msgspec.structs.replace(moved, exits=("2/a.onnx", "2/b.onnx"))
    assert parse_catalog(with_files(stages, "a", moved).encode(), PATH).family("a").variants[0] == moved


def test_paths_that_lead_out_of_the_directory_are_absolute_in_another_one() -> None:
    text = """\
format = 1  # ours

[[family]]
name = "a"
slo = "1s"
eval = "../../data/eval.npz"
labels = "labels.txt"
confidence = "discriminator:../sure.onnx"
[[family.variant]]
name = "a-s"
accuracy = 0.5
onnx = "models/../../a-s.onnx"
[[family.variant]]
name = "a-e"
accuracy = 0.6
exits = ["models/1.onnx", "../2.onnx"]
[[family.variant]]
name = "a-l"
accuracy = 0.9
onnx = "/models/a-l.onnx"
"""
    moved = text.replace("models/../../a-s", "/w/a-s").replace("../../data", "/data").replace("../", "/w/")
    assert with_outer_paths_from(text, Path("/w/engines")) == moved
