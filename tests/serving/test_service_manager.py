"""What a service manager hears, on a real socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proteus_cli.serving.service_manager import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A socket as systemd listens at, and what `$NOTIFY_SOCKET` says of it."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@proteus-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address if address[0] != "@" else "\0" + address[1:])
        listening.settimeout(10)
        yield listening, address


def test_readiness_and_stopping_are_told_with_a_line_for_people(manager: tuple[socket.socket, str]) -> None:
    listening, address = manager
    told = ServiceManager.of({"NOTIFY_SOCKET": address})
    told.ready("ready http://127.0.0.1:8000")
    told.stopping("draining")
    assert listening.recv(1000) == b"READY=1\nSTATUS=ready http://127.0.0.1:8000"
    assert listening.recv(1000) == b"STOPPING=1\nSTATUS=draining"


def test_the_watchdog_hears_of_an_event_loop_that_turns(manager: tuple[socket.socket, str]) -> None:
    listening, address = manager
    watched = ServiceManager.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "40000", "WATCHDOG_PID": str(os.getpid())})
    assert watched.watchdog_s == 0.04

    async def watch() -> None:
        watching = asyncio.create_task(watched.watch())
        heard = [await asyncio.to_thread(listening.recv, 100) for _ in range(3)]
        assert heard == [b"WATCHDOG=1"] * 3
        watching.cancel()

    asyncio.run(watch())


@pytest.mark.parametrize(
    "environment",
    [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/notify"}, {"NOTIFY_SOCKET": "@proteus-nobody-listens"}],
)
def test_a_manager_that_is_not_there_does_no_harm(
    environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    ServiceManager.of(environment).ready("ready")
    assert ("can't tell the service manager `READY=1`" in caplog.text) is bool(environment.get("NOTIFY_SOCKET"))


@pytest.mark.parametrize(
    "limit", [{}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"},
              {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}],
)  # fmt: skip
def test_without_a_watchdog_for_this_process_nothing_watches(limit: dict[str, str]) -> None:
    manager = ServiceManager.of(limit)
    assert manager.watchdog_s is None
    asyncio.run(asyncio.wait_for(manager.watch(), 10))
