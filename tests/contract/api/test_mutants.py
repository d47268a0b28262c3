"""Every use of the bindings, made wrong in one place, is refused: what isn't checked would pass."""

import ast

import pytest
from contract.api.mutants import annotations, mutants
from contract.api.sites import Site

TEXT = """\
def run(builder: trt.Builder) -> None:
    builder.build(network, flags=1)
"""
ATTRIBUTE = Site("m", (2, 4, 2, 17), is_call=False, name="build")
CALL = Site("m", (2, 4, 2, 35), is_call=True, name="build")


def test_each_copy_has_one_change() -> None:
    made = {mutant.change: mutant.text.splitlines()[1].strip() for mutant in mutants(TEXT, [ATTRIBUTE, CALL])}
    assert made == {
        "attribute renamed": "builder.build_renamed(network, flags=1)",
        "unknown keyword added": "builder.build(network, flags=1, no_such_keyword=0)",
        "superfluous arguments": f"builder.build(network, {', '.join('0' * 12)}, flags=1)",
        "keyword flags renamed": "builder.build(network, flags_renamed=1)",
    }


def test_a_site_that_is_not_in_the_text_is_an_error() -> None:
    with pytest.raises(LookupError, match="isn't in the text"):
        list(mutants(TEXT, [Site("m", (9, 0, 9, 4), is_call=False, name="gone")]))


def test_attributes_in_annotations_are_uses_too() -> None:
    (found,) = annotations(TEXT, {"trt"}, "m")
    assert found == Site("m", (1, 17, 1, 28), is_call=False, name="Builder")
    (mutant,) = mutants(TEXT, [found])
    assert ast.unparse(ast.parse(mutant.text).body[0]).startswith("def run(builder: trt.Builder_renamed)")
