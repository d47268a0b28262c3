"""Open-loop load: each request is sent at its time in the trace, never earlier, whether or not others were answered.

Latency counts from the scheduled arrival, so that the delay of a late generator or server is part of it (no
coordinated omission).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, time

import msgspec
import numpy as np

from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.target import Target

LEAD_S = 0.2  # from the call to the first arrival
PROGRESS_EVERY = 100


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """One record per request, the p99 of the generator's delay in seconds, and the start as a Unix time.

    ``interrupted_s``: the arrival of the last request that was sent before the replay was stopped; else None.
    """

    records: list[RequestRecord]
    lag_p99_s: float
    started_unix_s: float
    interrupted_s: float | None = None


async def replay(
    trace: Trace,
    target: Target,
    slo_s: Mapping[str, float],
    progress: Callable[[float], object] = lambda _done_frac: None,
    stop: asyncio.Event | None = None,
) -> ReplayResult:
    """Send the trace, until ``stop`` is set. Returns when each request that was sent has ended."""
    started_unix_s, start_s = time() + LEAD_S, perf_counter() + LEAD_S
    lags_s, sent = list[float](), list[asyncio.Task[RequestRecord]]()

    async def send_all() -> None:
        for index, arrival_s in enumerate(trace.arrival_s.tolist()):
            # Timers fire up to 0.5 ms early (uvloop rounds to whole ones): the rest is a few turns of the loop.
            while (delay_s := start_s + arrival_s - perf_counter()) > 0:
                await asyncio.sleep(delay_s)
            lags_s.append(-delay_s)
            sent.append(asyncio.create_task(_sent(trace, index, target, slo_s, start_s + arrival_s)))
            if index % PROGRESS_EVERY == 0:
                progress(arrival_s / max(trace.duration_s, 1e-9))

    sending, stopped = asyncio.create_task(send_all()), asyncio.create_task((stop or asyncio.Event()).wait())
    try:
        await asyncio.wait({sending, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        is_whole = sending.done() or not sending.cancel()
    if is_whole:
        await sending
    records = await asyncio.gather(*sent)
    lag_p99_s = float(np.percentile(lags_s, 99)) if sent else 0.0
    last_s = float(trace.arrival_s[len(sent) - 1]) if sent else 0.0
    return ReplayResult(records, lag_p99_s, started_unix_s, None if is_whole else last_s)


async def _sent(
    trace: Trace, index: int, target: Target, slo_s: Mapping[str, float], arrived_s: float
) -> RequestRecord:
    """Send a request and wait for its end. One whose deadline has passed, as the generator is late, is dropped."""
    family, arrival_s = trace.families[trace.family[index]], float(trace.arrival_s[index])
    allowed_s = slo_s[family] if np.isnan(trace.slo_s[index]) else float(trace.slo_s[index])
    left_s = arrived_s + allowed_s - perf_counter()
    if left_s <= 0:
        return RequestRecord(family, arrival_s, Outcome.DROPPED)
    row = float(trace.eval_row[index])
    number = index if np.isnan(row) else int(row)
    reply = await target.send(family, number, left_s, float(trace.min_accuracy[index]), trace.bounds(index))
    latency_s = perf_counter() - arrived_s
    is_served = reply.outcome is Outcome.SERVED
    if is_served and latency_s > allowed_s:
        reply = msgspec.structs.replace(reply, outcome=Outcome.LATE)
    return RequestRecord(family, arrival_s, latency_s=latency_s if is_served else None, **msgspec.structs.asdict(reply))
