"""Every name, call and keyword of the bindings that our code uses is one that each release has."""

import re

import pytest
from contract import figures
from contract.api.contracts import Contract, unchecked
from contract.api.mistakes import MISTAKES, Mistake
from contract.api.sources import ours, sample
from contract.figures import ContractPart

pytestmark = pytest.mark.timeout(600)  # the first run downloads, and fills mypy's cache


def test_the_bindings_are_the_real_ones(contract: Contract) -> None:
    release = contract.bindings.release
    version = contract.bindings.python("-c", f"import {release.package} as trt; print(trt.__version__)").strip()
    assert version == release.version
    figures.note(ContractPart.API, "bindings", f"{release.distribution} {version}")


def test_modules_written_in_python_agree_with_the_stubs(contract: Contract) -> None:
    ask = f"import inspect, {contract.bindings.release.package} as trt; print(inspect.signature(trt.nptype))"
    assert contract.bindings.python("-c", ask).strip() == "(trt_type)"


def test_our_code_fits_the_release(contract: Contract) -> None:
    assert contract.right.all_complaints == []


def test_overrides_have_the_names_of_the_methods_that_they_override(contract: Contract) -> None:
    assert contract.overrides
    assert [str(override) for override in contract.overrides if not override.fits] == []


def test_mypy_knows_the_type_of_all_that_is_used(contracts: dict[str, Contract]) -> None:
    """An `Any` before the dot would let everything pass."""
    assert unchecked(contracts.values()) == []


def test_no_use_is_taken_out_of_the_check(contract: Contract) -> None:
    """Bases of classes have no types without stubs; nothing else needs an exception where the bindings are used."""
    allowed = re.compile(r"^\s*class .*# type: ignore\[misc\]")
    used = {(site.module, line) for site in contract.sites() for line in range(site.span[0], site.span[2] + 1)}
    silent = [
        f"{source.path}:{number}: {line}"
        for source in ours()
        for number, line in enumerate(source.text.splitlines(), start=1)
        if "# mypy:" in line or ("type: ignore" in line and (source.path, number) in used and not allowed.match(line))
    ]
    assert silent == []


def test_the_uses_of_the_sample_are_found(contract: Contract) -> None:
    """Each kind of use: enum member, class, method, property, function, what comes out of a container."""
    names = {site.name for site in contract.sites() if site.module == sample().path}
    assert names > {"STRONGLY_TYPED", "Builder", "set_shape", "num_io_tensors", "mem_alloc", "execute_async_v3", "desc"}


def test_copies_without_a_change_pass(contract: Contract) -> None:
    """So what is refused of a mutant is its change."""
    unchanged = contract.copies.unchanged
    assert [source.path for path, source in unchanged.items() if path in contract.refused] == []


def test_each_mutant_is_caught(contract: Contract) -> None:
    made, refused = contract.copies.mutants, contract.refused
    release = contract.bindings.release.name
    figures.note(ContractPart.API, f"uses of {release}", f"{len(contract.sites())} in {len(contract.sources)} modules")
    figures.tell(ContractPart.API, f"mutants of {release} caught", *(made.keys() & refused), of=len(made))
    assert [str(mutant) for path, mutant in made.items() if path not in refused] == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_refused(mistake: Mistake, contracts: dict[str, Contract]) -> None:
    """By every release in which it is one: what a release still has is let pass."""
    (path,) = {p for c in contracts.values() for p, m in c.copies.mistakes.items() if m is mistake}
    refused_by = {name for name, contract in contracts.items() if path in contract.refused}
    assert refused_by == mistake.refused_by
    figures.tell(ContractPart.API, "known mistakes refused", mistake.name, of=len(MISTAKES))
