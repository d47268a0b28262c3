"""Compressed bodies and messages, unpacked in turns."""

from collections import deque
from collections.abc import Callable, Iterator

from proteus_cli.errors import NotReady
from proteus_cli.serving.requests.query import Stepwise
from proteus_cli.serving.unset_bytes import unset_bytes

NO_MEMORY = "too many large requests at once"
_PIECES_AT_ONCE = 8  # of those that are copied to their place: 1 MiB


def put_together(pieces: Iterator[bytes | bytearray], reserve: Callable[[int], bool]) -> Stepwise[bytes | bytearray]:
    """One piece, or all in one place, with pauses; memory for each is reserved once it is there. Raises `NotReady`."""
    kept = deque[bytes | bytearray]()
    for piece in pieces:
        if kept:
            yield
        if not reserve(len(piece)):
            raise NotReady(NO_MEMORY)
        kept.append(piece)
    if len(kept) == 1:
        return kept[0]
    content, at = unset_bytes(sum(map(len, kept))), 0
    while kept:
        piece = kept.popleft()
        content[at : at + len(piece)] = piece
        at += len(piece)
        if len(kept) % _PIECES_AT_ONCE == 0:
            yield
    return content
