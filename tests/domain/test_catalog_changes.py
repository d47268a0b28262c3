"""What a server calls variants of a catalog that has changed, and what it says has changed."""

import msgspec
import pytest
from builders import make_catalog, make_family
from hypothesis import given
from hypothesis import strategies as st

from proteus_cli.domain.catalog import Catalog, Task, Variant, VariantKey, name_in_catalog
from proteus_cli.domain.catalog_changes import CatalogContent, Succession, changes, succession

OLD, NEW, NEWER = (digit * 64 for digit in "abc")


def content(**digests: str | None) -> CatalogContent:
    """A family `a`; by variant the digest of its model."""
    return of_catalog(make_catalog(make_family("a", dict.fromkeys(digests, 0.5))), **digests)


def of_catalog(catalog: Catalog, **digests: str | None) -> CatalogContent:
    return CatalogContent(catalog, {"a": {name: digest for name, digest in digests.items() if digest is not None}})


def named(following: Succession) -> dict[str, str]:
    return {key.variant: name for key, name in following.names.items()}


def test_what_is_as_before_keeps_its_name() -> None:
    following = succession(content(s=OLD, m=NEW), content(s=OLD, m=NEW), {})
    assert (named(following), following.changes, following.retired) == ({"s": "s", "m": "m"}, (), frozenset())


def test_another_model_is_another_variant_with_its_version_behind_its_name() -> None:
    following = succession(content(s=OLD, m=OLD), content(s=OLD, m=NEW), {})
    assert named(following) == {"s": "s", "m": "m@bbbbbbbb"}
    assert following.retired == {VariantKey("a", "m")}
    assert [variant.name for _, variant in following.content.catalog.variants] == ["s", "m@bbbbbbbb"]
    assert following.content.digest(VariantKey("a", "m@bbbbbbbb")) == NEW
    assert list(map(str, following.changes)) == ["a/m is changed (its model)"]


def test_the_version_is_the_directory_of_the_model_where_that_is_a_number() -> None:
    family = make_family("a", {"m": 0.5})
    variant = msgspec.structs.replace(family.variants[0], onnx="models/a/m/2/model.onnx")
    read = of_catalog(make_catalog(msgspec.structs.replace(family, variants=(variant,))), m=NEW)
    assert named(succession(content(m=OLD), read, {})) == {"m": "m@2"}
    taken = succession(content(m=OLD), read, {VariantKey("a", "m@2"): NEWER})
    assert named(taken) == {"m": "m@bbbbbbbb"}


def test_a_model_that_comes_back_while_it_is_still_there_has_its_name_again() -> None:
    second = succession(content(m=OLD), content(m=NEW), {})
    back = succession(second.content, content(m=OLD), {VariantKey("a", "m"): OLD})
    assert named(back) == {"m": "m"}
    assert back.retired == {VariantKey("a", "m@bbbbbbbb")}


def test_a_third_model_has_no_name_that_an_earlier_one_had() -> None:
    second = succession(content(m=OLD), content(m=NEW), {})
    assert named(succession(second.content, content(m=NEWER), {})) == {"m": "m@cccccccc"}


def test_a_model_under_another_name_is_new_and_the_old_name_is_removed() -> None:
    following = succession(content(m=OLD), content(n=OLD), {})
    assert named(following) == {"n": "n"}
    assert list(map(str, following.changes)) == ["a/n is new", "a/m is removed"]


def test_without_a_model_a_variant_keeps_its_name() -> None:
    assert named(succession(content(m=None), content(m=None), {})) == {"m": "m"}


def test_changes_name_the_fields_that_differ() -> None:
    before = make_catalog(make_family("a", {"s": 0.5, "m": 0.6}), make_family("b", {"t": 0.5}))
    small, middle = before.families[0].variants
    variants = (msgspec.structs.replace(small, accuracy=0.55, banned=("gpu0",)), middle)
    family = msgspec.structs.replace(before.families[0], slo="7ms", variants=variants)
    after = Catalog(before.format, (family, make_family("c", {"u": 0.5})), {"cpu": 0.1})
    found = changes(CatalogContent(before, {}), CatalogContent(after, {}))
    assert list(map(str, found)) == [
        "the catalog is changed (price_per_hour)",
        "a is changed (slo)",
        "a/s is changed (accuracy, banned)",
        "c is new",
        "b is removed",
    ]


@pytest.mark.parametrize("name", ["m@", "@2", "m@2@3", "m@a/b", "m@-2"])
def test_a_version_is_a_name_too(name: str) -> None:
    with pytest.raises(ValueError, match="must be letters"):
        Variant(name, 0.5)


MODELS = st.dictionaries(st.sampled_from("smxyz"), st.sampled_from([OLD, NEW, NEWER]), min_size=1)


@given(st.lists(MODELS, min_size=2, max_size=6), st.data())
def test_no_two_models_ever_share_a_name_while_both_are_there(
    readings: list[dict[str, str]], data: st.DataObject
) -> None:
    served, retiring = content(**readings[0]), dict[VariantKey, str]()
    for reading in readings[1:]:
        before = {key: served.digest(key) for key in served.variants} | retiring
        following = succession(served, content(**reading), retiring)
        for plain, name in following.names.items():
            key = VariantKey("a", name)
            assert name_in_catalog(name) == plain.variant
            assert following.content.digest(key) == reading[plain.variant]
            assert before.get(key, reading[plain.variant]) == reading[plain.variant]
        again = succession(following.content, content(**reading), retiring)
        assert (again.names, again.changes, again.retired) == (following.names, (), frozenset())
        left = (retiring | {key: before[key] for key in following.retired}).items()
        there = {key: digest for key, digest in left if key not in set(following.content.variants)}
        gone = data.draw(st.sets(st.sampled_from(sorted(there)))) if there else set()
        served, retiring = following.content, {k: d for k, d in there.items() if d is not None and k not in gone}


def test_how_models_were_trained_is_no_difference_and_told_to_nobody() -> None:
    before = content(s=OLD)
    families = tuple(msgspec.structs.replace(each, task=Task("secret.npz")) for each in before.catalog.families)
    trained = CatalogContent(msgspec.structs.replace(before.catalog, families=families), before.digests)
    assert list(changes(before, trained)) == []
    assert CatalogContent.served(trained.catalog, trained.digests) == before
