"""A closed loop: a fixed number of batches is submitted and not yet done, at any time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor


@dataclass(slots=True)
class Loop:
    """Submits one batch again each time that it is done; ``check`` gets every result, and raises where it is wrong."""

    executor: Executor
    batch: Batch
    in_flight: int
    check: Callable[[BatchResult], None]

    async def batches_per_s(self, warm_up_s: float, for_s: float) -> float:
        """The rate in ``for_s`` seconds, after ``warm_up_s``. Raises the error of the first batch that fails."""
        running = asyncio.get_running_loop()
        ended: asyncio.Future[None] = running.create_future()
        done = left = 0
        stops = False

        def submit() -> None:
            nonlocal left
            left += 1
            self.executor.submit(self.batch, complete)

        def complete(result: BatchResult | Exception) -> None:
            nonlocal done, left, stops
            done, left = done + 1, left - 1
            error = self._wrong(result)
            if error is not None and not ended.done():
                ended.set_exception(error)
            stops = stops or error is not None
            if not stops:
                submit()
            elif left == 0 and not ended.done():
                ended.set_result(None)

        for _ in range(self.in_flight):
            submit()
        await self._unless_failed(ended, warm_up_s)
        before, start_s = done, perf_counter()
        await self._unless_failed(ended, for_s)
        number, took_s = done - before, perf_counter() - start_s
        stops = True
        await ended
        return number / took_s

    def _wrong(self, result: BatchResult | Exception) -> Exception | None:
        if isinstance(result, Exception):
            return result
        try:
            self.check(result)
        except Exception as error:  # noqa: BLE001 - it is raised by whoever waits for the loop
            return error
        return None

    async def _unless_failed(self, ended: "asyncio.Future[None]", for_s: float) -> None:
        await asyncio.wait((ended,), timeout=for_s)
        if ended.done():
            ended.result()
