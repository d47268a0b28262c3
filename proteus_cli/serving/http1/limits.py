"""What one client may take of the server."""

from dataclasses import dataclass

READ_BYTES = 64 * 1024
MAX_UNCOUNTED_BYTES = 4 * 1024  # of a body; one that is larger is counted, as memory has an end
MAX_HEADERS = 128
MAX_UNANSWERED = 32  # requests of one connection that may be inside; reading pauses then …
MAX_QUEUED = 256  # … and of what was read by then, so many may wait


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bytes of a body, and of what is around it; seconds for a request to come in, and between two.

    What comes with one read, of up to `READ_BYTES`, isn't counted among headers. Large bodies and answers may take
    longer, at `MIN_BYTES_PER_S`. After an error, what the client still sends is read and dropped for ``linger_s``.
    """

    body_bytes: int
    header_bytes: int = 32 * 1024
    request_s: float = 30.0
    keep_alive_s: float = 75.0
    linger_s: float = 2.0


class Refusal(Exception):
    """A request that can't be read to its end."""

    def __init__(self, status: int, text: str, headers: bytes = b"") -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers
