"""The contract with one release: what mypy says of our code, of its mutants, and of the mistakes, with its stubs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from contract.api.checking import Checked, Source, check
from contract.api.mistakes import MISTAKES, Mistake
from contract.api.mutants import Mutant, annotations, mutants, rewritten
from contract.api.releases import Bindings
from contract.api.sites import Override, Receiver, Site, aliases, overrides, receivers
from contract.api.sources import ours, sample


@dataclass(frozen=True, slots=True)
class Copies:
    """What mypy is given, by the path that it is given under: copies without a change, and what it should refuse."""

    unchanged: Mapping[str, Source]
    mutants: Mapping[str, Mutant]
    mistakes: Mapping[str, Mistake]


class Contract:
    """Checked once, asked often."""

    def __init__(self, bindings: Bindings, stubs: Path, cache: Path) -> None:
        self.bindings, self.stubs, self._cache = bindings, stubs, cache
        self.sources = (*ours(), sample())

    @cached_property
    def right(self) -> Checked:
        """Our code and the sample as they are."""
        return self._check(self.sources)

    @cached_property
    def receivers(self) -> Mapping[Site, Receiver]:
        """What stands before each dot and each parenthesis of our code."""
        found: dict[Site, Receiver] = {}
        for source in self.sources:
            found |= receivers(source.path, self.right.trees[source.name], self.right.types)
        return found

    @cached_property
    def overrides(self) -> list[Override]:
        return [found for source in self.sources for found in _overrides(source, self.right)]

    def sites(self) -> set[Site]:
        """All places where the bindings are touched."""
        return {site for source in self.sources for site in self._sites(source)}

    @cached_property
    def copies(self) -> Copies:
        made = [mutant for source in self.sources for mutant in mutants(source.text, self._sites(source))]
        return Copies(
            {f"unchanged_{number:02}.py": source for number, source in enumerate(self.sources)},
            {f"mutant_{number:04}.py": mutant for number, mutant in enumerate(made)},
            {f"mistake_{number:02}.py": mistake for number, mistake in enumerate(MISTAKES)},
        )

    @cached_property
    def refused(self) -> set[str]:
        """The paths of the copies that were refused, by mypy or for an override that overrides nothing."""
        unchanged = [_copy(path, rewritten(source.text)) for path, source in self.copies.unchanged.items()]
        wrong = [_copy(path, mutant.text) for path, mutant in self.copies.mutants.items()]
        refused = set(self._check([*unchanged, *wrong], keep_trees=False).complaints)
        return refused | self._refused_mistakes()

    def _refused_mistakes(self) -> set[str]:
        right = sample().text
        copies = [_copy(path, mistake.made_in(right)) for path, mistake in self.copies.mistakes.items()]
        checked = self._check(copies)
        misnamed = {copy.path for copy in copies if any(not found.fits for found in _overrides(copy, checked))}
        return misnamed | set(checked.complaints)

    def _sites(self, source: Source) -> set[Site]:
        names = aliases(self.right.trees[source.name])
        touching = {s for s, kind in self.receivers.items() if s.module == source.path and kind is Receiver.BINDING}
        return touching | set(annotations(source.text, names, source.path))

    def _check(self, sources: Iterable[Source], *, keep_trees: bool = True) -> Checked:
        return check(sources, self.stubs, self._cache, keep_trees=keep_trees)


def unchecked(contracts: Iterable[Contract]) -> list[str]:
    """Uses whose receiver mypy knows in no release, as text."""
    known: dict[Site, set[Receiver]] = {}
    for contract in contracts:
        for site, receiver in contract.receivers.items():
            known.setdefault(site, set()).add(receiver)
    blind = {Receiver.ANY, Receiver.UNSEEN}
    return [f"{site}: {' / '.join(r.value for r in found)}" for site, found in known.items() if found <= blind]


def _overrides(source: Source, checked: Checked) -> list[Override]:
    return overrides(source.path, checked.trees[source.name])


def _copy(path: str, text: str) -> Source:
    return Source(path.removesuffix(".py"), path, text)
