"""An agent and the process that keeps it."""

import asyncio
import subprocess

import pytest
from agents import PATIENCE_S, run

from proteus_cli.serving.agent.keeping import ends_with

ALONE_S = 0.05


def process_that_has_ended() -> int:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def test_an_agent_without_its_keeper_ends_once_it_serves_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def test(keeper: "subprocess.Popen[bytes]") -> None:
        stop, looks = asyncio.Event(), list[bool]()

        def is_serving() -> bool:
            looks.append(len(looks) < 5)
            return looks[-1]

        async with ends_with(keeper.pid, stop, is_serving=is_serving, alone_s=ALONE_S):
            ended = asyncio.Event()
            async with ends_with(gone, ended, is_serving=lambda: False, alone_s=2 * ALONE_S):
                await asyncio.wait_for(ended.wait(), PATIENCE_S)
            assert not looks, "its keeper is there"
            caplog.clear()  # of the other one
            keeper.kill()
            await asyncio.wait_for(stop.wait(), PATIENCE_S)
        assert looks[:6] == [True] * 5 + [False]

    gone = process_that_has_ended()
    with subprocess.Popen(["sleep", "600"]) as keeper:
        try:
            run(lambda: test(keeper))
        finally:
            keeper.kill()
    assert "the process that keeps this agent has ended" in caplog.text


def test_a_keeper_that_is_gone_already_is_no_keeper() -> None:
    gone = process_that_has_ended()

    async def test() -> None:
        stop = asyncio.Event()
        async with ends_with(gone, stop, is_serving=lambda: False, alone_s=ALONE_S):
            await asyncio.wait_for(stop.wait(), PATIENCE_S)
        assert stop.is_set()

    run(test)


def test_an_agent_that_nobody_keeps_stays() -> None:
    async def test() -> None:
        stop, here = asyncio.Event(), asyncio.all_tasks()
        async with ends_with(None, stop, is_serving=lambda: False, alone_s=0.0):
            assert asyncio.all_tasks() == here, "nothing waits to stop it"
            assert not stop.is_set()

    run(test)
