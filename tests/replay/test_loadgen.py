"""Requests are sent at their times in the trace."""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple

import numpy as np

from proteus_cli.domain.request import Bounds, Outcome
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.loadgen import replay
from proteus_cli.replay.target import Reply

EARLY_S = 0.003
Arguments = TypeVarTuple("Arguments")


class EarlyTimers(asyncio.SelectorEventLoop):
    """An event loop whose timers fire early, as those of uvloop do by less than a millisecond."""

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_later(max(delay - EARLY_S, 0.0), callback, *args, context=context)


class AnswersAtOnce:
    async def send(
        self, family: str, number: int, timeout_s: float, min_accuracy: float, bounds: Bounds | None = None
    ) -> Reply:
        return Reply(Outcome.SERVED)


def test_no_request_is_sent_before_its_arrival_though_timers_fire_early() -> None:
    arrival_s = np.arange(0.0, 0.2, 0.01)
    trace = Trace("even", ("digits",), arrival_s, np.zeros(20, dtype=np.int64), slo_s=np.full(20, np.nan))
    with asyncio.Runner(loop_factory=EarlyTimers) as runner:
        result = runner.run(replay(trace, AnswersAtOnce(), {"digits": 60.0}))
    latencies_s = [record.latency_s for record in result.records]
    assert len(latencies_s) == 20
    assert all(latency_s is not None and latency_s >= 0 for latency_s in latencies_s)
