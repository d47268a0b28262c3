"""Batches that are run to their end."""

import asyncio

from agents import PATIENCE_S

from proteus_cli.serving.devices.executor import Batch, BatchResult, Executor


async def ran(executor: Executor, what: Batch) -> BatchResult:
    """What came of a batch. Raises its error."""
    told: asyncio.Future[BatchResult | Exception] = asyncio.get_running_loop().create_future()
    executor.submit(what, told.set_result)
    result = await asyncio.wait_for(told, PATIENCE_S)
    if isinstance(result, Exception):
        raise result
    return result
