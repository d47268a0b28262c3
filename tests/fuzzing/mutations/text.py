"""Mutations of texts that consist of tokens: JSON, TOML, CSV, heads of HTTP requests.

A token is found from a random place on, so that a mutation costs the same in a large text as in a small one, and a text
that is no longer valid is mutated further all the same.
"""

import re
from collections.abc import Sequence
from random import Random

TOKEN = rb'"(?:[^"\\]|\\.)*"|[-+.\w]+|[^\s\w]'
_AHEAD = 4096
_LENGTHS = (1, 10, 100, 1_000, 20_000, 200_000)
_TIMES = (2, 3, 10, 100, 1_000, 50_000)
_HEAVY_FRAC = 0.25

Span = tuple[int, int]


class TextMutations:
    """Mutates with tokens of a dictionary and pieces of ``samples``; ``separator`` stands between two items.

    The ``heavy`` tokens may cost much where they are out of place, and are taken as often as a few of the ``light``.
    """

    def __init__(
        self,
        light: Sequence[bytes],
        heavy: Sequence[bytes],
        samples: Sequence[bytes],
        separator: bytes,
        *,
        token: bytes = TOKEN,
        max_bytes: int = 900_000,
    ) -> None:
        self._max_bytes = max_bytes  # of a piece that is repeated
        self._light, self._heavy, self._samples, self._separator = light, heavy, samples, separator
        self._token_pattern = re.compile(token)
        self._kinds = (
            self._replace,
            self._replace,
            self._insert,
            self._delete,
            self._repeat,
            self._copy,
            self._lengthen,
        )

    def __call__(self, text: bytes, rng: Random) -> bytes:
        return rng.choice(self._kinds)(text, rng)

    def _replace(self, text: bytes, rng: Random) -> bytes:
        start, end = self._any(text, rng)
        return text[:start] + self._token(rng) + text[end:]

    def _insert(self, text: bytes, rng: Random) -> bytes:
        start, _ = self._any(text, rng)
        return text[:start] + self._token(rng) + self._separator + text[start:]

    def _delete(self, text: bytes, rng: Random) -> bytes:
        start, end = self._span(text, rng)
        return text[:start] + text[end:]

    def _repeat(self, text: bytes, rng: Random) -> bytes:
        start, end = self._span(text, rng)
        piece = text[start:end] + rng.choice((b"", self._separator))
        times = min(rng.choice(_TIMES), 1 + self._max_bytes // max(1, len(piece)))
        return text[:start] + piece * times + text[start:]

    def _copy(self, text: bytes, rng: Random) -> bytes:
        """Insert a piece of this text or of a sample."""
        source = rng.choice((text, rng.choice(self._samples)))
        first, last = self._span(source, rng)
        start, end = self._any(text, rng)
        return text[:start] + source[first:last] + text[rng.choice((start, end)) :]

    def _lengthen(self, text: bytes, rng: Random) -> bytes:
        """Make a token longer, from the inside."""
        start, end = self._any(text, rng)
        at = rng.randint(start, end)
        letter = text[at - 1 : at] or b"0"
        return text[:at] + letter * rng.choice(_LENGTHS) + text[at:]

    def _token(self, rng: Random) -> bytes:
        return rng.choice(self._heavy if rng.random() < _HEAVY_FRAC else self._light)

    def _span(self, text: bytes, rng: Random) -> Span:
        """From the beginning of one token to the end of another, mostly near."""
        start, end = self._any(text, rng)
        reach = rng.choice((0, 0, 16, 64, 1024, len(text)))
        _, later = self._any(text[: end + reach], rng, first=start)
        return start, max(end, later)

    def _any(self, text: bytes, rng: Random, first: int = 0) -> Span:
        """A random token behind ``first``; a single byte if there is none nearby."""
        at = rng.randint(first, max(first, len(text) - 1))
        found = self._token_pattern.search(text, at, at + _AHEAD)
        return found.span() if found is not None else (at, min(at + 1, len(text)))
