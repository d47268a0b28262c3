"""The client beside an attack counts the time in which it has no right answer, also where it is refused."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.attacks.attacks import ATTACKS
from benchmarks.attacks.bystander import LIVE, PROBE, Bystander

ASKED_S = 0.05


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port where each request gets this answer, on a connection of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_all() -> None:
            while True:
                line, _ = listener.accept()
                with line:
                    if not line.recv(4096):
                        return
                    line.sendall(answer)

        thread = threading.Thread(target=answer_all)
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield port
        finally:
            socket.create_connection(("127.0.0.1", port)).close()
            thread.join()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b""])
def test_a_refusal_is_no_end_of_a_gap(answer: bytes) -> None:
    with answering(answer) as port:
        beside = Bystander(port, [LIVE])
        beside.ask_until(time.monotonic() + ASKED_S)
    assert beside.asked
    assert beside.gap_s >= ASKED_S


def test_a_right_answer_ends_a_gap() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        since_s = time.monotonic()
        beside = Bystander(port, [PROBE])
        while beside.asked < 2:
            beside.ask_until(time.monotonic() + ASKED_S)
        passed_s = time.monotonic() - since_s
    assert 0 < beside.gap_s < passed_s


def test_the_pieces_of_each_attack_can_be_made() -> None:
    for attack in ATTACKS.values():
        next(attack.traffic(), None)
