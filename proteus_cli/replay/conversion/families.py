"""How rows of a source become queries of our families."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path

import numpy as np

from proteus_cli.arrays import Ints
from proteus_cli.errors import UsageError
from proteus_cli.replay.conversion.source import Cells, picker
from proteus_cli.replay.synthesis import draw_families, require_shares
from proteus_cli.replay.trace import FamilyIndex

DRAWN = -1  # in place of an index: the family is drawn later, by the shares
MAX_CACHED_HASHES = 1 << 16
RULES = "column=NAME, hash=NAME[+NAME…], name=FAMILY, file or weights"

Shares = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FamilyRule:
    """``how`` is column, hash, name, file or weights; ``columns`` are those that it reads, ``name`` is for name."""

    how: str
    columns: tuple[str, ...] = ()
    name: str = ""

    def __str__(self) -> str:
        what = "+".join(self.columns) or self.name
        return f"{self.how}={what}" if what else self.how


def parse_rule(text: str) -> FamilyRule:
    """``"column=Model"``, ``"hash=app+func"``, ``"name=bert"``, ``"file"``, ``"weights"``. Raises `UsageError`."""
    how, equals, what = text.partition("=")
    if how in {"file", "weights"} and not equals:
        return FamilyRule(how)
    if how == "name" and what:
        return FamilyRule(how, name=what)
    if how in {"column", "hash"} and what:
        columns = (what,) if how == "column" else tuple(what.split("+"))
        return FamilyRule(how, columns)
    raise UsageError(f"`{text}` names no source of families.", hint=f"use one of: {RULES}")


class RowFamilies:
    """The families of rows; ``index`` grows as families appear.

    ``shares`` by family are asked for only where a rule spreads rows over them.
    """

    def __init__(self, shares: Callable[[], Shares], rng: np.random.Generator) -> None:
        self._read_shares, self._rng = shares, rng
        self.index = FamilyIndex()

    def reader(self, rule: FamilyRule, source: str, at: Sequence[int]) -> Callable[[Cells], int]:
        """A function from a row to the index of its family, or `DRAWN`; the rule's columns are ``at`` these places.

        The function raises `ValueError`. ``source`` is the name of the file.
        """
        match rule.how:
            case "column":
                (cell_at,) = at
                return lambda cells: self.index[cells[cell_at]]
            case "hash":
                return self._hashing(at)
            case "weights":
                self._shared  # noqa: B018 - an error comes before rows are read
                return lambda _cells: DRAWN
            case _:
                index = self.index[rule.name or _stem(source)]
                return lambda _cells: index

    def draw(self, family: Ints) -> Ints:
        """The indexes [n], with each `DRAWN` one replaced by a draw."""
        is_drawn = family == DRAWN
        if is_drawn.any():
            indexes, shares = self._shared
            family[is_drawn] = indexes[draw_families(shares, int(is_drawn.sum()), self._rng)]
        return family

    @cached_property
    def _shared(self) -> tuple[Ints, list[float]]:
        """The indexes of the families to spread over, in order of their names, and their shares."""
        shares = self._read_shares()
        names = sorted(shares)
        require_shares([shares[name] for name in names])
        return np.array([self.index[name] for name in names]), [shares[name] for name in names]

    def _hashing(self, at: Sequence[int]) -> Callable[[Cells], int]:
        """The same values give the same family, in any order and on any machine."""
        indexes, shares = self._shared
        edges = list(accumulate(shares))

        @lru_cache(MAX_CACHED_HASHES)
        def family(values: tuple[str, ...]) -> int:
            digest = blake2b("\0".join(values).encode(), digest_size=8).digest()
            share = int.from_bytes(digest, "big") / 2**64 * edges[-1]
            return int(indexes[min(bisect_right(edges, share), len(edges) - 1)])

        pick = picker(at)
        return lambda cells: family(pick(cells))


def _stem(name: str) -> str:
    """``traces/bert.txt.gz`` → ``bert``. Raises `UsageError` for stdin."""
    if name == "stdin":
        raise UsageError("Families can't come from the name of stdin.", hint="add `--family-from name=FAMILY`")
    path = Path(name.removesuffix(".gz"))
    return path.stem
