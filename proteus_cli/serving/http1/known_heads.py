"""A cache of parsed heads of requests: clients repeat themselves."""

from proteus_cli.serving.http1.exchange import Head
from proteus_cli.serving.transport.memo import remember

_MAX_HEADS = 1024
MAX_HEAD_BYTES = 2048
END_OF_HEAD = b"\r\n\r\n"


class KnownHeads:
    """Heads by their bytes before `END_OF_HEAD`, on which alone their meaning depends until `forget`.

    Beside each, how many bytes of body follow it. Emptied when full.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Head, int]] = {}
        self.get = self._known.get

    def forget(self) -> None:
        """Who answers requests has changed: what heads mean is to be found anew."""
        self._known.clear()

    def remember(self, text: bytes, head: Head, body_bytes: int) -> None:
        """Remember a head, unless it is long or has empty lines before it: those may belong to any request."""
        if not text.startswith(head.method + b" ") or len(text) > MAX_HEAD_BYTES:
            return
        remember(self._known, text, (head, body_bytes), _MAX_HEADS)
