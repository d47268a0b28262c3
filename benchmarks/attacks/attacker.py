"""The attacker, in a process of its own: `python -m benchmarks.attacks.attacker NAME PORT SECONDS`.

One thread sends what all its connections have to send, as fast as the server reads it. It prints how much that was, and
on how many connections the server ended.
"""

import resource
import selectors
import socket
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from benchmarks.attacks.attacks import ATTACKS, Attack

if TYPE_CHECKING:
    from collections.abc import Iterator

_RECEIVE_BYTES = 2**18
_LOOKS_S = 0.01
_FILES = 8192


class Done(msgspec.Struct, frozen=True):
    """What one attack came to. ``closed`` of ``opened`` connections were ended by the server."""

    sent_bytes: int
    received_bytes: int
    opened: int
    closed: int


class _Line:
    """One connection of an attack."""

    def __init__(self, attack: Attack, port: int) -> None:
        self.pieces: Iterator[bytes] = attack.traffic()
        self.left = memoryview(next(self.pieces, b""))  # before anything is sent, as it may take a while to make
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))


class _Attacker:
    def __init__(self, attack: Attack, port: int) -> None:
        self._attack, self._port = attack, port
        self._selector = selectors.DefaultSelector()
        self.sent = self.received = self.opened = self.closed = 0

    def run(self, seconds: float) -> Done:
        wave_s = self._attack.wave_s
        for _ in range(self._attack.connections):
            self._open()
        next_wave_s = time.monotonic() + wave_s
        stop_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < stop_s:
            if wave_s and now_s >= next_wave_s:
                next_wave_s += wave_s
                self._wave()
            for key, events in self._selector.select(_LOOKS_S):
                try:
                    if events & selectors.EVENT_READ:
                        self._receive(key.data)
                    if events & selectors.EVENT_WRITE and key.data.socket.fileno() >= 0:
                        self._send(key.data)
                except OSError:
                    self._ended(key.data)
        return Done(self.sent, self.received, self.opened, self.closed)

    def _open(self) -> None:
        line = _Line(self._attack, self._port)
        self._selector.register(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, line)
        self.opened += 1

    def _send(self, line: _Line) -> None:
        if not line.left:
            piece = None if self._attack.wave_s else next(line.pieces, None)
            if piece is None:
                self._selector.modify(line.socket, selectors.EVENT_READ, line)
                return
            line.left = memoryview(piece)
        sent = line.socket.send(line.left)
        self.sent += sent
        line.left = line.left[sent:]

    def _receive(self, line: _Line) -> None:
        received = len(line.socket.recv(_RECEIVE_BYTES))
        self.received += received
        if not received:
            self._ended(line)

    def _ended(self, line: _Line) -> None:
        self.closed += 1
        self._close(line)

    def _close(self, line: _Line) -> None:
        self._selector.unregister(line.socket)
        line.socket.close()

    def _wave(self) -> None:
        lines: list[_Line] = [key.data for key in self._selector.get_map().values()]
        for _ in range(self._attack.connections - len(lines)):
            self._open()
        for line in lines:
            piece = next(line.pieces, None)
            if piece is None:
                self._close(line)
            else:
                line.left = memoryview(piece)
                self._selector.modify(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, line)


def main(name: str, port: str, seconds: str) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_FILES, hard), hard))
    print(msgspec.json.encode(_Attacker(ATTACKS[name], int(port)).run(float(seconds))).decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
