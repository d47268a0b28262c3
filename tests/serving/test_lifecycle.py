"""Starting can be given up."""

import asyncio

import pytest

from proteus_cli.serving.lifecycle import StoppedEarly, run_unless


def test_work_is_done_where_nobody_stops_it() -> None:
    done: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append("all")

    asyncio.run(run_unless(asyncio.Event(), work()))
    assert done == ["all"]


def test_work_that_fails_raises_what_it_raised() -> None:
    async def work() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        asyncio.run(run_unless(asyncio.Event(), work()))


def test_work_is_cancelled_by_the_stop_and_has_ended_then() -> None:
    ended: list[str] = []

    async def work(stop: asyncio.Event) -> None:
        try:
            stop.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    async def stopped() -> None:
        stop = asyncio.Event()
        await run_unless(stop, work(stop))

    with pytest.raises(StoppedEarly):
        asyncio.run(stopped())
    assert ended == ["cleaned up"]
