"""What clients may ask for, by what variants are called and where their models are."""

from proteus_cli.domain.catalog import Variant
from proteus_cli.domain.catalog_changes import asked_versions, versions_of


def variants_by_version(*variants: tuple[str, str | None]) -> dict[str, set[str]]:
    versions = versions_of(Variant(name, 0.5, onnx) for name, onnx in variants)
    return {name: set(version.variants) for name, version in asked_versions(versions).items()}


def test_variants_are_asked_for_by_name_and_all_of_a_version_by_that() -> None:
    found = variants_by_version(("s", "models/s.onnx"), ("s@2", "models/s/2/m.onnx"), ("l@2", "models/l/2/m.onnx"))
    assert found == {"2": {"s@2", "l@2"}, "s": {"s"}, "s@2": {"s@2"}, "l@2": {"l@2"}}


def test_a_version_is_the_same_after_a_new_start_which_has_plain_names() -> None:
    before = variants_by_version(("s@2", "models/s/2/m.onnx"), ("l", "models/l/1/m.onnx"))
    after = variants_by_version(("s", "models/s/2/m.onnx"), ("l", "models/l/1/m.onnx"))
    assert (before["2"], after["2"]) == ({"s@2"}, {"s"})


def test_version_one_stays_any_variant_and_other_directories_are_no_versions() -> None:
    found = variants_by_version(("s", "models/1/m.onnx"), ("l", "models/new/m.onnx"), ("x", None))
    assert found.keys() == {"s", "l", "x"}
    assert variants_by_version(("1", "m.onnx")) == {}


def test_a_digest_is_a_version_and_a_name_comes_before_a_version() -> None:
    assert variants_by_version(("s", "s.onnx"), ("s@3f2a91c0", "s.onnx"))["3f2a91c0"] == {"s@3f2a91c0"}
    assert variants_by_version(("2", "m.onnx"), ("s", "models/2/m.onnx"))["2"] == {"2"}


def test_a_version_is_told_with_its_variants_unless_it_is_one() -> None:
    found = asked_versions({"s@2": "2", "s": ""})
    assert str(found["s"]) == "version `s`"
    assert str(found["2"]) == "version `2` (s@2)"
