"""A well-behaved client: asks its questions again and again, and notes for how long each had no right answer."""

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass

PAUSE_S = 0.002
_ANSWERED_WITHIN_S = 60.0
_ANSWER_BYTES = 2**16
_ADDRESS = ("127.0.0.2", 0)  # another one than that of the attacker: each may have a share of the connections


@dataclass(frozen=True, slots=True)
class Question:
    """What is sent, and what a right answer begins with. ``ends_connection``: the answer is the last one."""

    request: bytes
    answer: bytes = b"HTTP/1.1 200 "
    ends_connection: bool = False


LIVE = Question(b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
PROBE = Question(LIVE.request, ends_connection=True)
"""Like those of an orchestrator, each over a connection of its own."""


class Bystander:
    """Asks at a port. ``gap_s`` is the longest time without a right answer to one of the questions so far."""

    def __init__(self, port: int, questions: Iterable[Question]) -> None:
        self._port, self.gap_s, self.asked = port, 0.0, 0
        self._answered_s = dict.fromkeys(questions, time.monotonic())

    def ask_until(self, until_s: float) -> None:
        """Ask all of them until a time of `time.monotonic`, each time over a new connection."""
        while time.monotonic() < until_s:
            try:
                with socket.create_connection(("127.0.0.1", self._port), _ANSWERED_WITHIN_S, _ADDRESS) as line:
                    self._ask_over(line, until_s)
            except (ConnectionError, TimeoutError):
                pass  # refused: the gap goes on
            time.sleep(PAUSE_S)
        self._note()

    def _ask_over(self, line: socket.socket, until_s: float) -> None:
        while time.monotonic() < until_s:
            for question in self._answered_s:
                line.sendall(question.request)
                self.asked += 1
                answer = line.recv(_ANSWER_BYTES)
                self._note()
                if answer.startswith(question.answer):
                    self._answered_s[question] = time.monotonic()
                if not answer or question.ends_connection:
                    return
            time.sleep(PAUSE_S)

    def _note(self) -> None:
        self.gap_s = max(self.gap_s, time.monotonic() - min(self._answered_s.values()))
