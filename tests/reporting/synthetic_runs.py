"""Small runs with known answers, for the tests of reports."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from proteus_cli.domain.base import MadeBy
from proteus_cli.domain.report import Replan, Report
from proteus_cli.domain.request import Outcome, RequestRecord
from proteus_cli.reporting.measures import report

SLO_S = {"digits": 0.05, "signals": 0.08}
DEVICES = ("cpu0", "gpu-0", "gpu-1")
BEST = {"digits": 0.98, "signals": 0.95}
MADE_BY = MadeBy(version="1.2.3", host="bench", time="2026-01-02T03:04:05+00:00")


def answer(
    arrival_s: float,
    *,
    family: str = "digits",
    outcome: Outcome = Outcome.SERVED,
    latency_s: float = 0.01,
    accuracy: float | None = 0.98,
    variant: str | None = None,
    device: str | None = None,
    batch: int | None = None,
    is_deferred: bool = False,
    is_fallback: bool = False,
    is_correct: bool | None = None,
    is_cut: bool = False,
) -> RequestRecord:
    return RequestRecord(
        family,
        arrival_s,
        outcome,
        latency_s,
        accuracy,
        variant,
        device,
        batch,
        is_deferred,
        is_fallback,
        is_correct,
        is_cut,
    )


def reported(
    ended: Sequence[RequestRecord],
    *,
    policy: str = "proteus",
    trace: str = "t.csv",
    duration_s: float = 60.0,
    devices: Sequence[str] = (),
    replans: Sequence[Replan] = (),
    attainment: Mapping[str, float] = MappingProxyType({}),
    profiled: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> Report:
    return report(
        ended,
        policy=policy,
        mode="simulated",
        trace=trace,
        duration_s=duration_s,
        slo_s=SLO_S,
        best_accuracy=BEST,
        attainment=attainment,
        devices=devices,
        replans=replans,
        profiled=profiled,
    )


def cascading(policy: str = "proteus") -> Report:
    """10 s of 250 qps on `cpu0`, where the variant `s` is sure and right, and 10 of 50 qps deferred to `l` on `cpu1`.

    The relative accuracy is 101 % in each second, of a best variant with 0.98.
    """
    sure = [answer(k / 250, accuracy=0.9998, variant="s", device="cpu0", batch=1) for k in range(2500)]
    deferred = [
        answer(k / 50, accuracy=0.9398, variant="l", device="cpu1", batch=1, is_deferred=True) for k in range(500)
    ]
    profiled = {"digits": {"l": 0.98, "s": 0.95, "idle": 0.9}}
    return reported([*sure, *deferred], policy=policy, duration_s=10.0, profiled=profiled)


def burst(policy: str, trace: str = "burst.csv") -> Report:
    """60 s of 20 qps, 60 qps from 20 to 40 s; then `proteus` lowers accuracy, any other drops every second query.

    Each family has a device of its own; a third, the second of its kind, is idle.
    """
    arrivals = np.concatenate([np.arange(400) / 20, np.arange(1200, 2400) / 60, np.arange(800, 1200) / 20])
    ended = [_in_burst(policy, place, float(at)) for place, at in enumerate(arrivals)]
    what = "cpu0: digits-l → digits-s (loaded in 80 ms)"
    replans = (Replan(21.0, reason="burst", solve_s=0.03, swaps=3, what=what),) if policy == "proteus" else ()
    return reported(ended, policy=policy, trace=trace, devices=DEVICES, replans=replans)


def _in_burst(policy: str, place: int, at_s: float) -> RequestRecord:
    family = ("digits", "signals")[place % 2]
    busy = 20 <= at_s < 40
    if busy and policy != "proteus" and place % 4 < 2:
        return RequestRecord(family, at_s, Outcome.DROPPED)
    is_smaller = busy and policy == "proteus"
    return answer(
        at_s,
        family=family,
        latency_s=0.03 if busy else 0.02,
        accuracy=BEST[family] * (0.9 if is_smaller else 1.0),
        variant=f"{family}-s" if is_smaller else f"{family}-l",
        device={"digits": "cpu0", "signals": "gpu-0"}[family],
        batch=4,
    )
