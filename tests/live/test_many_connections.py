"""More connections than there may be, and fewer files than are needed."""

import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest
import trustme
from injecting import open_files, until, until_asleep
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from tiny import Tiny, add_plan

from proteus_cli.serving.transport.connections import MAX_REFUSED_OPEN

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.extended]

MANY, MOST = 3000, 500
SPARE_FILES = 500


@pytest.fixture
def _many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = MANY + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"a process may open {hard} files here, and this needs {needed}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def until_files(live: LiveServer, most: int) -> None:
    until(lambda: open_files(live.process.pid) <= most, lambda: (open_files(live.process.pid), most))


@contextmanager
def connection(live: LiveServer, tls: ssl.SSLContext | None = None) -> Iterator[HTTPConnection]:
    made = (
        HTTPConnection("127.0.0.1", live.port, timeout=ANSWER_WITHIN_S)
        if tls is None
        else HTTPSConnection("127.0.0.1", live.port, timeout=ANSWER_WITHIN_S, context=tls)
    )
    try:
        yield made
    finally:
        made.close()


def status_of(made: HTTPConnection, path: str = "/v2/health/ready") -> int:
    made.request("GET", path)
    response = made.getresponse()
    response.read()
    return response.status


@pytest.mark.usefixtures("_many_files")
def test_connections_are_served_up_to_the_limit_and_refused_beyond(tiny: Tiny) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    with (
        serving(tiny.root, plan, "--replan=off", f"--set=max-connections={MOST}") as live,
        ExitStack() as stack,
        connection(live) as first,
    ):
        assert status_of(first) == 200
        before = open_files(live.process.pid)
        for number in range(MANY):
            stack.enter_context(socket.create_connection(("127.0.0.1", live.port), ANSWER_WITHIN_S))
            if number % 500 == 0:
                assert status_of(first) == 200
        with connection(live) as another:
            assert [status_of(another), status_of(another, "/metrics"), status_of(another, "/v2")] == [200, 200, 503]
        until_files(live, before + MOST + MAX_REFUSED_OPEN)
        until_asleep(live.process.pid)  # idle connections cost nothing
        stack.close()
        until_files(live, before)
        with connection(live) as another:
            assert status_of(another) == 200
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text()


@pytest.mark.parametrize("speaks_tls", [False, True], ids=["plain", "TLS"])
def test_a_server_that_can_open_no_more_files_serves_those_who_are_there(
    tiny: Tiny, tmp_path: Path, *, speaks_tls: bool
) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    options, tls = certified(tmp_path) if speaks_tls else ((), None)
    with (
        serving(tiny.root, plan, "--replan=off", *options) as live,
        connection(live, tls) as first,
        ExitStack() as stack,
    ):
        assert status_of(first) == 200
        before = open_files(live.process.pid)
        limits = resource.prlimit(live.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(live.process.pid, resource.RLIMIT_NOFILE, (before + 2, limits[1]))
        for _ in range(50):
            stack.enter_context(socket.create_connection(("127.0.0.1", live.port), ANSWER_WITHIN_S))
        for _ in range(10):
            assert status_of(first) == 200
        until_asleep(live.process.pid, looks=20)  # it does not try all the time
        assert status_of(first) == 200
        resource.prlimit(live.process.pid, resource.RLIMIT_NOFILE, limits)
        stack.close()
        with connection(live, tls) as another:
            assert status_of(another) == 200
        until_files(live, before)
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text()


def test_clients_that_never_finish_the_handshake_keep_nobody_out(tiny: Tiny, tmp_path: Path) -> None:
    plan = add_plan(tiny, {"cpu0": "shapes-s"})
    options, tls = certified(tmp_path)
    with serving(tiny.root, plan, "--replan=off", *options) as live, ExitStack() as stack:
        with connection(live, tls) as first:
            assert status_of(first) == 200
            before = open_files(live.process.pid)
        for _ in range(600):
            stack.enter_context(socket.create_connection(("127.0.0.1", live.port), ANSWER_WITHIN_S))
        with connection(live, tls) as another:
            assert status_of(another) == 200
        until_files(live, before)  # their time is over
        assert live.stop() == 0


def certified(directory: Path) -> tuple[tuple[str, ...], ssl.SSLContext]:
    """Options for a server, and what its clients trust."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    cert, key = directory / "server.pem", directory / "server.key"
    made.cert_chain_pems[0].write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return ("--tls-cert", str(cert), "--tls-key", str(key)), client
