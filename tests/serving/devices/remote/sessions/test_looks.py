"""One timer calls all who look for signs of life."""

import asyncio

import pytest

from proteus_cli.serving.devices.remote.sessions import looks as looks_module
from proteus_cli.serving.devices.remote.sessions.looks import Looks


def test_all_are_called_again_and_again_until_they_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks_module, "BEAT_S", 0.001)
    looks, called = Looks(), list[str]()

    async def until_called(name: str, times: int) -> None:
        async with asyncio.timeout(10):
            while called.count(name) < times:
                await asyncio.sleep(0.001)

    async def test() -> None:
        with looks.calling(lambda: called.append("a")):
            with looks.calling(lambda: called.append("b")):
                await until_called("a", 3)
                await until_called("b", 3)
            of_b = called.count("b")
            await until_called("a", called.count("a") + 3)
            assert called.count("b") == of_b
        assert looks._timer is None
        with looks.calling(lambda: called.append("c")):
            await until_called("c", 1)

    asyncio.run(test())
