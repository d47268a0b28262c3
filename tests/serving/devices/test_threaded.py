"""The threads of an executor: what they do, in which order."""

import asyncio
import threading
from pathlib import Path

from proteus_cli.backends.emulated import STUB
from proteus_cli.domain.catalog.catalog import VariantKey
from proteus_cli.serving.devices.threaded import ThreadedExecutor

OLD, NEW = VariantKey("f", "old"), VariantKey("f", "new")
WITHIN_S = 10.0


class NotedEngine:
    """Notes when it is loaded and freed."""

    signature = STUB

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name, self._notes = name, notes
        notes.append(f"load {name}")

    def close(self) -> None:
        self._notes.append(f"free {self._name}")


class NotedExecutor(ThreadedExecutor[NotedEngine]):
    def __init__(self) -> None:
        self.notes: list[str] = []
        super().__init__("cpu0", print)

    def hold_batches(self) -> threading.Event:
        """Have the running thread wait for an event, as if it ran a batch."""
        goes_on = threading.Event()
        self._jobs.put(lambda: self.notes.append("batch" if goes_on.wait(WITHIN_S) else "stuck"))
        return goes_on

    def _load(self, key: VariantKey, model: Path, warm_up_rows: int) -> NotedEngine:
        return NotedEngine(key.variant, self.notes)


def test_an_engine_is_freed_before_the_next_is_loaded() -> None:
    """A device may have memory for one of the two alone."""

    async def run() -> list[str]:
        executor = NotedExecutor()
        await executor.load(OLD, Path(), 1)
        goes_on = executor.hold_batches()
        executor.unload(OLD)
        loading = asyncio.create_task(executor.load(NEW, Path(), 1))
        await asyncio.sleep(0.01)
        goes_on.set()
        await asyncio.wait_for(loading, WITHIN_S)
        executor.close()
        return executor.notes

    assert asyncio.run(run()) == ["load old", "batch", "free old", "load new", "free new"]
