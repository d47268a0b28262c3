"""So many batches in flight, for a while: as one ends, the next is submitted."""

import asyncio
from collections.abc import Sequence

from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor
from proteus_cli.studies.concurrency.knee import ScatterSample

FEWEST_ENDS = 8
"""Of a device in a sample, after the first batches."""


class _Loop:
    """The batches in flight on one device; ``ended`` has when each began and ended, by the loop."""

    def __init__(self, executor: Executor, batch: Batch, in_flight: int, stop_s: float) -> None:
        self._executor, self._batch, self._in_flight, self._stop_s = executor, batch, in_flight, stop_s
        self._left, self._now_s = in_flight, asyncio.get_running_loop().time
        self.ended: list[tuple[float, float]] = []
        self.is_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        for _ in range(self._in_flight):
            self._submit()

    def _submit(self) -> None:
        began_s = self._now_s()
        self._executor.submit(self._batch, lambda result: self._done(began_s, result))

    def _done(self, began_s: float, result: BatchResult | Exception) -> None:
        now_s = self._now_s()
        if isinstance(result, Exception):
            if not self.is_over.done():
                self.is_over.set_exception(result)
            return
        self.ended.append((began_s, now_s))
        if not self.is_over.done() and (now_s < self._stop_s or len(self.ended) < self._in_flight + FEWEST_ENDS):
            self._submit()
            return
        self._left -= 1
        if not self._left and not self.is_over.done():
            self.is_over.set_result(None)

    def counted(self) -> tuple[float, list[float]]:
        """Batches per second, and the seconds that each took, while all were in flight."""
        from_s, until_s = self.ended[self._in_flight - 1][1], self.ended[-self._in_flight][1]
        took_s = [end_s - began_s for began_s, end_s in self.ended if from_s < end_s <= until_s]
        return len(took_s) / (until_s - from_s), took_s


async def sample(
    executors: Sequence[Executor], batch: Batch, in_flight: int, length_s: float, number: int
) -> ScatterSample:
    """A sample with so many batches in flight on each device; ``number`` is what varies.

    Raises `EngineError` and `DeviceLost` as batches do, once no device has more to begin.
    """
    stop_s = asyncio.get_running_loop().time() + length_s
    loops = [_Loop(executor, batch, in_flight, stop_s) for executor in executors]
    for each in loops:
        each.start()
    ends = await asyncio.gather(*(each.is_over for each in loops), return_exceptions=True)
    for failure in filter(None, ends):
        raise failure
    counted = [each.counted() for each in loops]
    took_s = [seconds for _, each in counted for seconds in each]
    return ScatterSample(number, sum(rate for rate, _ in counted) * batch.rows, sum(took_s) / len(took_s))
