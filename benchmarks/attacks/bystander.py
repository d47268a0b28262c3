"""A well-behaved client: asks whether the server lives, again and again, and notes how long each answer took."""

import socket
import time
from collections.abc import Iterator

PAUSE_S = 0.002
_ASKS = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
_ANSWERED_WITHIN_S = 60.0
_ANSWER_BYTES = 4096
_ADDRESS = ("127.0.0.2", 0)  # another one than that of the attacker, who has a share of the connections


def ask_until(until_s: float, port: int) -> Iterator[float]:
    """Ask the server on that port until a time of `time.monotonic`: the seconds until each answer."""
    with socket.create_connection(("127.0.0.1", port), _ANSWERED_WITHIN_S, _ADDRESS) as line:
        while time.monotonic() < until_s:
            since_s = time.perf_counter()
            line.sendall(_ASKS)
            answer = line.recv(_ANSWER_BYTES)
            yield time.perf_counter() - since_s
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            time.sleep(PAUSE_S)
