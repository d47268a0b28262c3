"""The threads of an executor: what they do, in which order."""

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from proteus_cli.backends.affinity import NICE
from proteus_cli.backends.emulated import STUB
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.serving.devices import threaded
from proteus_cli.serving.devices.threaded import ThreadedExecutor

OLD, NEW = VariantKey("f", "old"), VariantKey("f", "new")
WITHIN_S = 30.0


class NotedEngine:
    """Notes when it is loaded and freed."""

    signature = STUB

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name, self._notes = name, notes
        self.freed_on = ""
        notes.append(f"load {name}")

    def close(self) -> None:
        self._notes.append(f"free {self._name}")
        self.freed_on = threading.current_thread().name


class NotedExecutor(ThreadedExecutor[NotedEngine]):
    """Loads wait until they `may_load`, and note the nice value of their thread."""

    def __init__(self, *, loads_give_way: bool = False) -> None:
        self.notes: list[str] = []
        self.niceness: dict[str, int] = {}
        self.engines: list[NotedEngine] = []
        self.may_load = {OLD: threading.Event(), NEW: threading.Event()}
        for each in self.may_load.values():
            each.set()
        super().__init__("cpu0", print, loads_give_way=loads_give_way)

    def hold_batches(self) -> threading.Event:
        """Have the running thread wait for an event, as if it ran a batch."""
        goes_on = threading.Event()
        self._jobs.put(lambda: self.notes.append("batch" if goes_on.wait(WITHIN_S) else "stuck"))
        return goes_on

    async def has_loaded(self) -> None:
        """Until the threads that load have done all that they may do by now."""
        await asyncio.sleep(0)  # whoever has begun to wait for a load has asked for it
        for jobs in (self._loads, self._giving_way) if self.can_give_way else (self._loads,):
            done = threading.Event()
            jobs.put(done.set)
            assert done.wait(WITHIN_S)

    def submit(self, *_: object) -> None:
        raise AssertionError("nobody submits batches here")

    def _load(self, key: VariantKey, model: Path, warm_up_rows: int) -> NotedEngine:
        assert self.may_load[key].wait(WITHIN_S)
        self.niceness[key.variant] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        self.engines.append(NotedEngine(key.variant, self.notes))
        return self.engines[-1]


def test_an_engine_is_freed_before_the_next_is_loaded() -> None:
    """A device may have memory for one of the two alone."""

    async def run() -> list[str]:
        executor = NotedExecutor()
        await executor.load(OLD, Path(), 1)
        goes_on = executor.hold_batches()
        executor.unload(OLD)
        loading = asyncio.create_task(executor.load(NEW, Path(), 1))
        await executor.has_loaded()
        goes_on.set()
        await asyncio.wait_for(loading, WITHIN_S)
        executor.close()
        return executor.notes

    assert asyncio.run(run()) == ["load old", "batch", "free old", "load new", "free new"]


def test_a_load_that_nobody_waits_for_any_more_does_not_begin() -> None:
    async def run() -> list[str]:
        executor = NotedExecutor()
        executor.may_load[OLD].clear()
        first, second = (asyncio.create_task(executor.load(key, Path(), 1)) for key in (OLD, NEW))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        executor.may_load[OLD].set()
        await asyncio.wait_for(first, WITHIN_S)
        executor.close()
        return executor.notes

    assert asyncio.run(run()) == ["load old", "free old"]


@pytest.mark.parametrize("has_come", [False, True])
def test_an_engine_that_nobody_waits_for_any_more_is_not_freed_on_the_loop(*, has_come: bool) -> None:
    """Whether the load is cancelled while it goes on, or just as the engine comes."""

    async def run() -> NotedEngine:
        executor = NotedExecutor()
        executor.may_load[OLD].clear()
        loading = asyncio.create_task(executor.load(OLD, Path(), 1))
        await asyncio.sleep(0)
        if has_come:
            executor.may_load[OLD].set()
            while not executor._loading or not next(iter(executor._loading)).done():
                await asyncio.sleep(0)
        loading.cancel()
        await asyncio.wait([loading])
        executor.may_load[OLD].set()
        await asyncio.wait_for(executor.load(NEW, Path(), 1), WITHIN_S)
        executor.close()
        return executor.engines[0]

    assert asyncio.run(run()).freed_on == "cpu0-load"


only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a nice value for each thread")


@only_on_linux
def test_a_load_that_gives_way_has_a_thread_of_low_priority_and_keeps_no_other_load_waiting() -> None:
    async def run() -> NotedExecutor:
        executor = NotedExecutor(loads_give_way=True)
        executor.may_load[OLD].clear()
        giving_way = asyncio.create_task(executor.load(OLD, Path(), 1, gives_way=True))
        await asyncio.wait_for(executor.load(NEW, Path(), 1), WITHIN_S)
        assert not giving_way.done()
        executor.may_load[OLD].set()
        await asyncio.wait_for(giving_way, WITHIN_S)
        executor.close()
        return executor

    executor = asyncio.run(run())
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    assert executor.niceness == {"new": usual, "old": min(usual + NICE, 19)}
    assert executor.notes[:2] == ["load new", "load old"]


@only_on_linux
def test_a_load_that_gives_way_comes_after_what_was_freed_before() -> None:
    async def run() -> list[str]:
        executor = NotedExecutor(loads_give_way=True)
        await executor.load(OLD, Path(), 1)
        goes_on = executor.hold_batches()
        executor.unload(OLD)
        loading = asyncio.create_task(executor.load(NEW, Path(), 1, gives_way=True))
        await executor.has_loaded()
        goes_on.set()
        await asyncio.wait_for(loading, WITHIN_S)
        executor.close()
        return executor.notes

    assert asyncio.run(run()) == ["load old", "batch", "free old", "load new", "free new"]


@only_on_linux
def test_a_load_that_gives_way_ends_though_its_device_is_closed_before_it_begins() -> None:
    async def run() -> None:
        executor = NotedExecutor(loads_give_way=True)
        goes_on = executor.hold_batches()
        loading = asyncio.create_task(executor.load(NEW, Path(), 1, gives_way=True))
        await asyncio.sleep(0)
        goes_on.set()
        executor.close()
        with pytest.raises(RuntimeError, match="closed"):
            await asyncio.wait_for(loading, WITHIN_S)

    asyncio.run(run())


def test_without_a_thread_for_it_no_load_gives_way() -> None:
    async def run() -> NotedExecutor:
        executor = NotedExecutor()
        assert not executor.can_give_way
        await executor.load(NEW, Path(), 1, gives_way=True)
        executor.close()
        return executor

    assert asyncio.run(run()).niceness == {"new": os.getpriority(os.PRIO_PROCESS, 0)}


@only_on_linux
def test_where_the_system_refuses_it_loads_have_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(threaded, "give_way", refuse)

    async def run() -> NotedExecutor:
        executor = NotedExecutor(loads_give_way=True)
        await asyncio.wait_for(executor.load(NEW, Path(), 1, gives_way=True), WITHIN_S)
        assert not executor.is_lost
        executor.close()
        return executor

    executor = asyncio.run(run())
    assert not executor.can_give_way
    assert executor.niceness == {"new": os.getpriority(os.PRIO_PROCESS, 0)}
