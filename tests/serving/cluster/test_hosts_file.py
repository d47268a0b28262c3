"""A `hosts.toml` that changes while it is followed."""

import asyncio
import socket
import threading
from pathlib import Path

import pytest
from agents import run
from cluster.lists import following

from proteus_cli.errors import ArtefactError
from proteus_cli.serving.cluster.hosts_file import HostsFile

LOOK_S = 0.01


def written(path: Path, **ports: int) -> Path:
    path.write_text("\n".join(f'[hosts.{name}]\naddress = "127.0.0.1:{port}"' for name, port in ports.items()))
    return path


def test_a_list_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = written(tmp_path / "hosts.toml", a=7000)

    async def test() -> None:
        async with following(HostsFile(path, LOOK_S)) as followed:
            assert await followed.next() == {"a": "127.0.0.1:7000"}
            written(path, a=7000, b=7001)
            assert await followed.next() == {"a": "127.0.0.1:7000", "b": "127.0.0.1:7001"}
            written(path, b=7002)
            assert await followed.next() == {"b": "127.0.0.1:7002"}

    run(test)


@pytest.mark.parametrize("broken", ["hosts = 7", '[hosts.a]\naddress = "192.0.2.1:7000"', None])
def test_a_list_that_makes_no_sense_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    path = written(tmp_path / "hosts.toml", a=7000)

    async def test() -> None:
        async with following(HostsFile(path, LOOK_S)) as followed:
            await followed.next()
            path.unlink() if broken is None else path.write_text(broken)
            while not caplog.records:
                await asyncio.sleep(LOOK_S)
            written(path, c=7000)
            assert await followed.next() == {"c": "127.0.0.1:7000"}
            assert followed.is_quiet

    run(test)
    assert [record.message for record in caplog.records if "stay as they were" in record.message]


def test_a_name_server_that_does_not_answer_holds_up_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, answered = tmp_path / "hosts.toml", threading.Event()
    path.write_text('[hosts.a]\naddress = "a.example:7000"')

    def slow(*_: object, **__: object) -> list[object]:
        assert answered.wait(2), "the event loop is held up"
        return [(0, 0, 0, "", ("127.0.0.1", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def test() -> None:
        first = asyncio.ensure_future(anext(HostsFile(path).changes()))
        await asyncio.sleep(0)
        answered.set()
        assert list(await first) == ["a"]

    run(test)


def test_a_list_that_is_missing_at_first_is_an_error(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(ArtefactError, match=r"hosts\.toml"):
            await anext(HostsFile(tmp_path / "hosts.toml").changes())

    run(test)
