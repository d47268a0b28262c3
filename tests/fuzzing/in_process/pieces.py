"""How bytes arrive: in pieces."""

from collections.abc import Iterator
from random import Random
from zlib import crc32

_MAX_PIECES = 12
_BYTES_OF_PIECE = (1, 3, 9, 100, 5_000, 70_000)


def pieces(content: bytes) -> Iterator[bytes]:
    """The content in up to `_MAX_PIECES` pieces, which depend on it alone; the last one is all the rest."""
    rng, at = Random(crc32(content)), 0
    for _ in range(rng.randint(0, _MAX_PIECES - 1)):
        end = at + rng.choice(_BYTES_OF_PIECE)
        yield content[at:end]
        at = end
    yield content[at:]
