"""Heads of requests that were seen before, so that they need not be parsed again: clients repeat themselves."""

import msgspec

KNOWN_HEADS = 1024
LONGEST_KNOWN_HEAD = 2048
END_OF_HEAD = b"\r\n\r\n"


class KnownHead(msgspec.Struct, frozen=True):
    """The head of a request, as it was parsed; ``headers`` are shared by all requests that have it."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body_bytes: int


class KnownHeads:
    """What a head means depends on nothing but its bytes, all of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}
        self.get = self._known.get

    def remember(self, head: bytes, known: KnownHead) -> None:
        """``head`` has just been parsed, and stands for the same request when it comes again.

        But not where only a part of it was there, or empty lines before it: those may belong to any request.
        """
        is_whole = head.startswith(known.method + b" ") and head.endswith(END_OF_HEAD)
        if not is_whole or len(head) > LONGEST_KNOWN_HEAD:
            return
        if len(self._known) >= KNOWN_HEADS:
            self._known.clear()
        self._known[head] = known
