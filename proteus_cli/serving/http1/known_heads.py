"""A cache of parsed heads of requests: clients repeat themselves."""

import msgspec

_MAX_HEADS = 1024
MAX_HEAD_BYTES = 2048
END_OF_HEAD = b"\r\n\r\n"


class KnownHead(msgspec.Struct, frozen=True):
    """A parsed head; ``headers`` are shared by all requests that have it."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body_bytes: int


class KnownHeads:
    """Parsed heads by their bytes, on which alone their meaning depends; emptied when full."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}
        self.get = self._known.get

    def remember(self, head: bytes, known: KnownHead) -> None:
        """Remember a head, unless it is incomplete or has empty lines before it: those may belong to any request."""
        is_complete = head.startswith(known.method + b" ") and head.endswith(END_OF_HEAD)
        if not is_complete or len(head) > MAX_HEAD_BYTES:
            return
        if len(self._known) >= _MAX_HEADS:
            self._known.clear()
        self._known[head] = known
