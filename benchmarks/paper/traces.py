"""Traces to replay: the paper's, parts of it, and synthetic ones, all of them seeded."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.paper.cluster import SEED, Cluster
from benchmarks.planner_instances import PAPER, synthetic_mix
from proteus_cli.arrays import Floats
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.synthesis import Diurnal, Gamma, Poisson, Shape, make_trace
from proteus_cli.replay.trace import read_trace

DIURNAL_LOW, BURSTY_LOW = 0.25, 0.35  # of the load at the top
BURST_EVERY_S, BURST_S = 20.0, 6.0


@dataclass(frozen=True, slots=True)
class Bursts:
    """Poisson at the rate, and at each of ``peaks`` (from, until, its rate) above it: at once, without a ramp."""

    peaks: tuple[tuple[float, float, float], ...]

    def arrivals(self, rate_qps: float, duration_s: float, rng: np.random.Generator) -> Floats:
        """Poisson processes add up to one of the sum of their rates."""
        parts = [Poisson().arrivals(rate_qps, duration_s, rng)]
        for from_s, until_s, peak_qps in self.peaks:
            parts.append(from_s + Poisson().arrivals(peak_qps - rate_qps, until_s - from_s, rng))
        return np.sort(np.concatenate(parts))


def shared_trace(window_s: tuple[float, float] | None = None) -> Trace:
    """The paper's Twitter-shaped trace, or a part of it that starts at 0."""
    trace = read_trace(PAPER / "medium-normal_load.csv.gz")
    return trace if window_s is None else cut(trace, *window_s)


def cut(trace: Trace, start_s: float, stop_s: float) -> Trace:
    """What arrives from ``start_s`` up to but not including ``stop_s``, as a trace that starts at 0."""
    first, last = np.searchsorted(trace.arrival_s, (start_s, stop_s))
    name = f"{trace.name} {start_s:g}–{stop_s:g} s"
    part = slice(first, last)
    return Trace(name, trace.families, trace.arrival_s[part] - start_s, trace.family[part], trace.slo_s[part])


def made_up(
    cluster: Cluster, kinds: tuple[str, ...], loads: tuple[float, ...], duration_s: float, seed: int
) -> tuple[Trace, ...]:
    """A trace of each kind at each load, each with a mix of families of its own.

    The load is the highest rate that the trace aims for over the most that the fleet carries of its mix.
    """
    pairs = [(kind, load) for kind in kinds for load in loads]
    return tuple(_made_up(cluster, kind, load, duration_s, seed) for kind, load in pairs)


def _made_up(cluster: Cluster, kind: str, load: float, duration_s: float, seed: int) -> Trace:
    rng = np.random.default_rng([seed, *kind.encode(), round(100 * load)])
    shares = synthetic_mix(cluster.fleet, rng)
    top_qps = load * cluster.max_qps(shares)
    shape, rate_qps = _shaped(kind, top_qps, duration_s)
    name = f"{kind} {load:.0%}"
    return make_trace(name, shape, rate_qps=rate_qps, duration_s=duration_s, shares=shares, rng=rng)


def _shaped(kind: str, top_qps: float, duration_s: float) -> tuple[Shape, float]:
    """A shape, and the rate that it is to be drawn with."""
    if kind == "diurnal":
        return Diurnal(peak_qps=top_qps), DIURNAL_LOW * top_qps
    if kind == "bursty":
        starts_s = np.arange(BURST_EVERY_S / 2, duration_s - BURST_S, BURST_EVERY_S).tolist()
        return Bursts(tuple((start_s, start_s + BURST_S, top_qps) for start_s in starts_s)), BURSTY_LOW * top_qps
    return (Gamma(0.05) if kind == "Gamma" else Poisson()), top_qps


def macro_bursts(cluster: Cluster, shares: Mapping[str, float], duration_s: float) -> Trace:
    """A low load with bursts that grow: to 40, 60, 80 and 95 % of the most that can be carried, each for a while.

    Each starts and ends at once and takes an eighth of the trace; the load between is 20 %.
    """
    max_qps, part_s = cluster.max_qps(shares), duration_s / 8
    tops = zip((0.5, 2.5, 4.5, 6.5), (0.4, 0.6, 0.8, 0.95), strict=True)
    peaks = tuple((part_s * at, part_s * (at + 1), load * max_qps) for at, load in tops)
    rng = np.random.default_rng([SEED, 5])
    return make_trace(
        "macro-bursts", Bursts(peaks), rate_qps=0.2 * max_qps, duration_s=duration_s, shares=shares, rng=rng
    )
