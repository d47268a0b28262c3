"""Heads of requests that were seen before, so that they need not be parsed again: clients repeat themselves."""

import msgspec

KNOWN_HEADS = 1024
LONGEST_KNOWN_HEAD = 2048
_END = b"\r\n\r\n"


class KnownHead(msgspec.Struct, frozen=True):
    """The head of a request, as it was parsed; ``headers`` are shared by all requests that have it."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body_bytes: int


def head_bytes(message: bytes) -> int:
    """How many bytes of a message are its head; 0 where its end isn't there yet."""
    found = message.find(_END)
    return found + len(_END) if found > 0 else 0


class KnownHeads:
    """What a head means depends on nothing but its bytes, all of them."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}
        self.get = self._known.get

    def remember(self, head: bytes, known: KnownHead) -> None:
        """``head`` has just been parsed, and stands for the same request when it comes again."""
        begins_with_request = head.startswith(known.method + b" ")  # and not with empty lines before it
        if not begins_with_request or len(head) > LONGEST_KNOWN_HEAD:
            return
        if len(self._known) >= KNOWN_HEADS:
            self._known.clear()
        self._known[head] = known
