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
    """One record per request, the p99 of how late the generator sent them in seconds, and the start as a Unix time.

    ``interrupted_s``: the arrival of the last request that was sent, where the replay was stopped; else None.
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
    """Send the trace, until ``stop`` is set. Returns when every request that was sent has ended."""
    started_unix_s, sender = time() + LEAD_S, _Sender(trace, target, slo_s)
    sending, stopped = (
        asyncio.create_task(sender.send_all(progress)),
        asyncio.create_task((stop or asyncio.Event()).wait()),
    )
    try:
        await asyncio.wait({sending, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        is_whole = sending.done() or not sending.cancel()
    if is_whole:
        await sending
    records = await asyncio.gather(*sender.sent)
    sent = len(records)
    lag_p99_s = float(np.percentile(sender.lags_s[:sent], 99)) if sent else 0.0
    interrupted_s = None if is_whole else float(trace.arrival_s[sent - 1]) if sent else 0.0
    return ReplayResult(records, lag_p99_s, started_unix_s, interrupted_s)


class _Sender:
    """Sends the requests of a trace, whose first moment is `LEAD_S` from now. ``lags_s``: how late each was sent."""

    def __init__(self, trace: Trace, target: Target, slo_s: Mapping[str, float]) -> None:
        self._trace, self._target, self._slo_s = trace, target, slo_s
        self._start_s = perf_counter() + LEAD_S
        self.lags_s = np.zeros(len(trace))
        self.sent: list[asyncio.Task[RequestRecord]] = []

    async def send_all(self, progress: Callable[[float], object]) -> None:
        """Send each request at its time. Returns when the last one was sent."""
        trace = self._trace
        for index in range(len(trace)):
            arrival_s = float(trace.arrival_s[index])
            # Timers fire up to 0.5 ms early (uvloop rounds to whole ones): the rest is a few turns of the loop.
            while (delay_s := self._start_s + arrival_s - perf_counter()) > 0:
                await asyncio.sleep(delay_s)
            self.lags_s[index] = max(0.0, perf_counter() - self._start_s - arrival_s)
            self.sent.append(asyncio.create_task(self._send(index, arrival_s)))
            if index % PROGRESS_EVERY == 0:
                progress(arrival_s / max(trace.duration_s, 1e-9))

    async def _send(self, index: int, arrival_s: float) -> RequestRecord:
        """Send one request, unless it is too late for that, and wait for its end."""
        trace = self._trace
        family, own_slo_s = trace.families[trace.family[index]], float(trace.slo_s[index])
        allowed_s = self._slo_s[family] if np.isnan(own_slo_s) else own_slo_s
        left_s = self._start_s + arrival_s + allowed_s - perf_counter()
        if left_s <= 0:  # the generator was so late that the deadline has passed
            return RequestRecord(family, arrival_s, Outcome.DROPPED)
        row = float(trace.eval_row[index])
        number = index if np.isnan(row) else int(row)
        reply = await self._target.send(family, number, left_s, float(trace.min_accuracy[index]), trace.bounds(index))
        latency_s = perf_counter() - self._start_s - arrival_s
        told = msgspec.structs.asdict(reply)
        is_answered = reply.outcome is Outcome.SERVED
        if is_answered and latency_s > allowed_s:
            told["outcome"] = Outcome.LATE
        return RequestRecord(family, arrival_s, latency_s=latency_s if is_answered else None, **told)
