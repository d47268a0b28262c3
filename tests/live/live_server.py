"""A server in a process of its own, for the length of a test."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from select import select
from typing import Any

from forking.program import start_proteus

READY_WITHIN_S = 60.0
ANSWER_WITHIN_S = 60.0
POLL_S = 0.02


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class WithHeaders:
    """A plugin of Triton's clients: their requests have these headers, too."""

    headers: Mapping[str, str]

    def __call__(self, request: Any) -> None:
        request.headers.update({name.lower(): value for name, value in self.headers.items()})


@dataclass
class LiveServer:
    """``proteus serve``, ready on ``port`` of the loopback.

    What it said on stdout when it was ready is in ``said``, what it said on stderr in ``log``.
    With the option ``--grpc-port 0`` it speaks gRPC on ``grpc_port``; else that is 0. Requests have ``headers``, too.
    """

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path
    grpc_port: int = 0
    said: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> Reply:
        """One request on a connection of its own; a ``body`` that isn't bytes, or pieces of them, is sent as JSON."""
        if body is not None and not isinstance(body, bytes | Iterator):
            body = json.dumps(body).encode()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_WITHIN_S)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})}, encode_chunked=chunked)
            response = connection.getresponse()
            content = response.read()
            return Reply(response.status, {name.lower(): value for name, value in response.getheaders()}, content)
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def infer(self, family: str, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        """Without parameters of its own, a request is not late where the machine is busy for a while."""
        if isinstance(body, dict):
            body = {"parameters": {"timeout": int(ANSWER_WITHIN_S * 1e6)}, **body}
        return self.ask("POST", f"/v2/models/{family}/infer", body, headers)

    def status(self) -> Any:
        return self.get("/v2/proteus/status").document()

    def until(self, holds: Callable[[Any], bool], within_s: float = ANSWER_WITHIN_S) -> Any:
        """The first status for which that holds."""
        stop_s = time.monotonic() + within_s
        while True:
            status = self.status()
            if holds(status):
                return status
            assert time.monotonic() < stop_s, status
            time.sleep(POLL_S)

    def ended(self) -> dict[str, int]:
        """How many requests ended how, as the server says when it has stopped."""
        (line,) = [line for line in self.log.read_text().splitlines() if "requests by how they ended" in line]
        return {outcome: int(number) for outcome, number in re.findall(r"(\w+)=(\d+)", line)}

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Tell it to stop, and wait for its exit code."""
        self.process.send_signal(number)
        return self.process.wait(ANSWER_WITHIN_S)


def expect_stopped_well(live: LiveServer) -> None:
    """It stops when it is told to, and nothing went wrong before."""
    assert live.stop() == 0
    assert "Traceback" not in live.log.read_text()


@contextmanager
def serving(root: Path, plan: Path, *options: str, token: str = "") -> Iterator[LiveServer]:
    """Start a server on a port of its own choice; whatever happens, it is gone afterwards.

    With a ``token`` it asks for that, and requests of `LiveServer.ask` have it.
    """
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if token:
        (root / "tokens").write_text(token)
        (root / "tokens").chmod(0o600)
        options = (*options, "--auth-tokens", str(root / "tokens"))
    log = root / "server.log"
    with log.open("wb") as stderr:
        process = start_proteus(
            ["serve", plan, "--port", "0", "-w", root, *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            process_group=0,
            env={name: value for name, value in os.environ.items() if not name.startswith("PROTEUS_")},
        )
    try:
        assert process.stdout is not None
        readable, _, _ = select([process.stdout], [], [], READY_WITHIN_S)
        line = process.stdout.readline().decode() if readable else ""
        assert line.startswith(("ready http://", "ready https://")), log.read_text()
        ports = [int(url.rpartition(":")[2]) for url in line.split() if "://" in url]
        yield LiveServer(process, ports[0], log, ports[1] if len(ports) > 1 else 0, line, headers)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
