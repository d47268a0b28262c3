"""A piece of network between a server and an agent, with everything that networks do: in this process, without root."""

import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Relay:
    """Passes bytes between those who connect to ``port`` and another port, each after ``latency_s``.

    While it is held, it takes bytes, also of new connections, and passes none on, like a cable that is cut. While it is
    cut, it has closed all connections, and closes new ones.
    """

    def __init__(self, to: int) -> None:
        self.latency_s = 0.0
        self._to, self._ends, self._threads = to, list[socket.socket](), list[threading.Thread]()
        self._flows, self._is_cut = threading.Event(), False
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def hold(self) -> None:
        self._flows.clear()

    def release(self) -> None:
        """Pass on what was held, also to who has given up meanwhile, and what comes."""
        self._flows.set()

    def cut(self) -> None:
        self._is_cut = True
        for end in self._ends:
            _shut(end)

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        _shut(self._listener)
        self.cut()
        self.release()
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is shut
            while True:
                near, _ = self._listener.accept()
                if self._is_cut:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._to))
                except OSError:  # the agent is not there
                    near.close()
                    continue
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    self._connect(*ends)

    def _connect(self, source: socket.socket, target: socket.socket) -> None:
        on_its_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        for work in (self._take, self._pass_on):
            self._start(work, source, target, on_its_way)

    def _start(self, work: Callable[..., None], *given: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=given, name="relay", daemon=True))
        self._threads[-1].start()

    def _take(
        self, source: socket.socket, _: socket.socket, on_its_way: "queue.SimpleQueue[tuple[float, bytes]]"
    ) -> None:
        content = b"anything"
        while content:
            try:
                content = source.recv(2**16)
            except OSError:  # reset by who sent it
                content = b""
            on_its_way.put((time.monotonic() + self.latency_s, content))

    def _pass_on(
        self, source: socket.socket, target: socket.socket, on_its_way: "queue.SimpleQueue[tuple[float, bytes]]"
    ) -> None:
        with suppress(OSError):  # who it is for is gone
            while True:
                due_s, content = on_its_way.get()
                time.sleep(max(0.0, due_s - time.monotonic()))
                self._flows.wait()
                if not content:
                    break
                target.sendall(content)
        for end in (source, target):
            _shut(end)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # it is
        end.shutdown(socket.SHUT_RDWR)
