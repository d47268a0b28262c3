"""Starting can be given up; a background task starts again after an unexpected error."""

import asyncio

import pytest

from proteus_cli.serving import lifecycle
from proteus_cli.serving.lifecycle import StoppedEarly, TaskErrors, run_unless, running


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


def test_a_background_task_starts_again_after_an_unexpected_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is logged with its traceback, and counted under the name of the task."""
    errors: dict[str, TaskErrors] = {}
    monkeypatch.setattr(lifecycle, "RETRY_S", 0.001)
    monkeypatch.setattr(lifecycle, "task_errors", errors)
    starts: list[str] = []

    async def watch(device: str, again: asyncio.Event) -> None:
        starts.append(device)
        if len(starts) <= 2:
            raise KeyError(device)
        again.set()

    async def test() -> None:
        again = asyncio.Event()
        async with running(watch, "gpu0", again):
            await again.wait()

    asyncio.run(test())
    assert starts == ["gpu0"] * 3
    ((name, error),) = errors.items()
    assert name.endswith("watch")
    assert (error.total, error.last) == (2, "KeyError('gpu0')")
    assert error.last_unix_s > 0.0
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"] * 2
