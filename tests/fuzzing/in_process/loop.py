"""An event loop whose callbacks are timed one by one, and whose clock jumps to what is due next."""

import asyncio
from collections.abc import Callable
from typing import Any

from fuzzing.watch import Watch
from virtual_loop import VirtualLoop


class WatchedLoop(VirtualLoop):
    """Times all callbacks and steps of tasks with ``watch``, which each input replaces; not those of its ``client``."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.client: asyncio.Task[object] | None = None
        super().__init__()

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return super().call_soon(self._timed, callback, args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, self._timed, callback, args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., object], *args: Any
    ) -> "asyncio.Future[object]":
        """Call ``func`` between two callbacks, untimed: what runs in a thread holds nobody up."""
        result = self.create_future()
        super().call_soon(_settle, result, func, args)
        return result

    def _timed(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        if self.client is not None and getattr(callback, "__self__", None) is self.client:
            callback(*args)
        else:
            self.watch.call(callback, *args)


def _settle(result: "asyncio.Future[object]", func: Callable[..., object], args: tuple[Any, ...]) -> None:
    if result.cancelled():
        return
    try:
        result.set_result(func(*args))
    except Exception as error:  # noqa: BLE001 - whoever waits for it gets it
        result.set_exception(error)
