"""Open-loop load: each request is sent at its time in the trace, whether or not earlier ones were answered.

Latency counts from the scheduled arrival, so that the delay of a late generator or server is part of it (no
coordinated omission).
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter, time

import numpy as np

from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.target import Target

LEAD_S = 0.2  # from the call to the first arrival
PROGRESS_EVERY = 100


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """One record per request, the p99 of how late the generator sent them in seconds, and the start as a Unix time."""

    records: list[RequestRecord]
    lag_p99_s: float
    started_unix_s: float


async def replay(
    trace: Trace,
    target: Target,
    slo_s: Mapping[str, float],
    progress: Callable[[float], None] = lambda _done_frac: None,
) -> ReplayResult:
    """Send the whole trace. Returns when every request has ended."""
    start_s, started_unix_s = perf_counter() + LEAD_S, time() + LEAD_S
    lags_s = np.zeros(len(trace))
    jobs: list[asyncio.Task[RequestRecord]] = []

    async def send(index: int, arrival_s: float) -> RequestRecord:
        family, own_slo_s = trace.families[trace.family[index]], float(trace.slo_s[index])
        allowed_s = slo_s[family] if np.isnan(own_slo_s) else own_slo_s
        left_s = start_s + arrival_s + allowed_s - perf_counter()
        if left_s <= 0:  # the generator was so late that the deadline has passed
            return RequestRecord(family, arrival_s, Outcome.DROPPED)
        reply = await target.send(family, index, left_s, float(trace.min_accuracy[index]))
        latency_s = perf_counter() - start_s - arrival_s
        is_late = reply.outcome is Outcome.SERVED and latency_s > allowed_s
        outcome = Outcome.LATE if is_late else reply.outcome
        is_answered = outcome in {Outcome.SERVED, Outcome.LATE}
        return RequestRecord(
            family=family,
            arrival_s=arrival_s,
            outcome=outcome,
            latency_s=latency_s if is_answered else None,
            accuracy=reply.accuracy,
            variant=reply.variant,
            device=reply.device,
            batch=reply.batch,
        )

    for index in range(len(trace)):
        arrival_s = float(trace.arrival_s[index])
        delay_s = start_s + arrival_s - perf_counter()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        lags_s[index] = max(0.0, perf_counter() - start_s - arrival_s)
        jobs.append(asyncio.create_task(send(index, arrival_s)))
        if index % PROGRESS_EVERY == 0:
            progress(arrival_s / max(trace.duration_s, 1e-9))
    records = await asyncio.gather(*jobs)
    return ReplayResult(records, float(np.percentile(lags_s, 99)) if len(trace) else 0.0, started_unix_s)
