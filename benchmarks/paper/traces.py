"""Arrivals: the paper's trace, parts of it, and synthetic ones; all of them seeded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.worlds import PAPER, SEED, Cluster, synthetic_mix
from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.synthesis import Diurnal, Gamma, Poisson, Shape, families_at, make_trace, zipf_shares
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


# --- kinds of arrivals, each a function of a mix of families, a duration and a generator

Mix = Mapping[str, float]
"""Parts of the whole demand by family."""

Kind = Callable[[Mix, float, np.random.Generator], Trace]
"""A trace of a mix that lasts so many seconds."""

LOW_QPS, HIGH_QPS = 150.0, 1085.0
CLUMP_S = 0.03


# --- Poisson arrivals at a rate that changes


def square(mix: Mix, duration_s: float, rng: np.random.Generator) -> Trace:
    """150 and 1085 queries/s in turns, four times each: 15 s each in two minutes."""
    return _in_parts("square wave", (LOW_QPS, HIGH_QPS) * 4, mix, duration_s, rng)


def steps(rates_qps: Sequence[float]) -> Kind:
    """These rates, each for as long."""

    def made(mix: Mix, duration_s: float, rng: np.random.Generator) -> Trace:
        return _in_parts("steps", rates_qps, mix, duration_s, rng)

    return made


def sawtooth(mix: Mix, duration_s: float, rng: np.random.Generator) -> Trace:
    """Eight times from 150 up to 1085 queries/s and down at once: 15 s each in two minutes."""
    return _in_parts("sawtooth", np.linspace(LOW_QPS, HIGH_QPS, 15).tolist() * 8, mix, duration_s, rng)


def _in_parts(name: str, rates_qps: Sequence[float], mix: Mix, duration_s: float, rng: np.random.Generator) -> Trace:
    part_s = duration_s / len(rates_qps)
    parts = [at * part_s + Poisson().arrivals(qps, part_s, rng) for at, qps in enumerate(rates_qps)]
    return _with_families(name, np.concatenate(parts), mix, rng)


def on_and_off(mix: Mix, duration_s: float, rng: np.random.Generator) -> Trace:
    """Each family by itself is on for some 8 s, then off for some 12 s; 400 queries/s in the mean.

    Times are exponentially distributed, and start at a random place; off is a twentieth of the rate when on.
    """
    on_s, off_s, mean_qps, off_part = 8.0, 12.0, 400.0, 0.05
    on_qps = mean_qps * (on_s + off_s) / (on_s + off_part * off_s)
    arrivals, families = [], []
    for place, share in enumerate(mix.values()):
        now_s, is_on = -float(rng.uniform(0, on_s + off_s)), bool(rng.random() < on_s / (on_s + off_s))
        while now_s < duration_s:
            stop_s = now_s + float(rng.exponential(on_s if is_on else off_s))
            found = now_s + Poisson().arrivals(share * on_qps * (1 if is_on else off_part), stop_s - now_s, rng)
            arrivals.append(found[(found >= 0) & (found < duration_s)])
            families.append(np.full(len(arrivals[-1]), place))
            now_s, is_on = stop_s, not is_on
    return _trace("on and off", np.concatenate(arrivals), np.concatenate(families), mix)


# --- clumps

RATE_CV = 0.2  # of the rates of seconds: their standard deviation over their mean


@dataclass(frozen=True, slots=True)
class Seconds:
    """Some of the seconds of a trace: their mean rate, and the chances that one has 1, 2, 3 … clumps."""

    qps: float
    chances: tuple[float, ...]


def clumps(mix: Mix, duration_s: float, rng: np.random.Generator) -> Trace:
    """Each second's queries, of all families together, come in one to four clumps of 30 ms.

    180 queries/s, and 590 in the second quarter, which is a minute of four. Families share by Zipf's law. Numbers of
    clumps are chosen for the scatter of a real trace: half of all windows of 300 ms have at most 5 queries, one in ten
    has 234 or more, one in a hundred 433.
    """
    quiet, busy = Seconds(180.0, (0.7, 0.15, 0.1, 0.05)), Seconds(590.0, (0.0, 0.0, 0.3, 0.7))
    return _clumped("clumps", duration_s, rng, _zipf(mix), quiet, busy)


def larger_clumps(mix: Mix, duration_s: float, rng: np.random.Generator) -> Trace:
    """As `clumps`, but more of them are one or two in a second.

    For the scatter of another real trace: one window in ten has 269 queries or more, one in a hundred 684.
    """
    quiet, busy = Seconds(220.0, (0.7, 0.15, 0.1, 0.05)), Seconds(590.0, (0.5, 0.5))
    return _clumped("larger clumps", duration_s, rng, _zipf(mix), quiet, busy)


def family_clumps(mix: Mix, duration_s: float, rng: np.random.Generator) -> Trace:
    """As `clumps`, but ten to fourteen in a second, each of one family."""
    chances = (*(0.0,) * 9, *(0.2,) * 5)
    quiet, busy = Seconds(180.0, chances), Seconds(590.0, chances)
    return _clumped("clumps of one family", duration_s, rng, _zipf(mix), quiet, busy, of_one_family=True)


def gamma_clumps(mix: Mix, duration_s: float, rng: np.random.Generator) -> Trace:
    """250 queries/s with Gamma-distributed times between them, of so small a shape that most come in clumps."""
    arrival_s = Gamma(0.0022).arrivals(250.0, duration_s, rng)
    return _with_families("Gamma clumps", arrival_s, _zipf(mix), rng)


def _clumped(
    name: str,
    duration_s: float,
    rng: np.random.Generator,
    mix: Mix,
    quiet: Seconds,
    busy: Seconds,
    *,
    of_one_family: bool = False,
) -> Trace:
    """Busy in the second quarter. Each query of a second draws its clump, and each clump its place."""
    arrivals, families = [], []
    for second in range(round(duration_s)):
        now = busy if duration_s / 4 <= second < duration_s / 2 else quiet
        count = rng.poisson(now.qps * rng.gamma(RATE_CV**-2, RATE_CV**2))
        number = 1 + rng.choice(len(now.chances), p=now.chances)
        start_s, clump = second + rng.uniform(0, 1 - CLUMP_S, number), rng.integers(0, number, count)
        arrivals.append(start_s[clump] + rng.uniform(0, CLUMP_S, count))
        drawn = families_at(list(mix.values()), rng.random(number if of_one_family else count))
        families.append(drawn[clump] if of_one_family else drawn)
    return _trace(name, np.concatenate(arrivals), np.concatenate(families), mix)


def _zipf(mix: Mix) -> Mix:
    """The families by Zipf's law, in the order of their shares."""
    return zipf_shares(sorted(mix, key=lambda family: -mix[family]), 1.0)


def _with_families(name: str, arrival_s: Floats, mix: Mix, rng: np.random.Generator) -> Trace:
    return _trace(name, arrival_s, families_at(list(mix.values()), rng.random(len(arrival_s))), mix)


def _trace(name: str, arrival_s: Floats, family: Ints, mix: Mix) -> Trace:
    """In the order of their arrivals."""
    order = np.argsort(arrival_s, kind="stable")
    return Trace(name, tuple(mix), arrival_s[order], family[order], np.full(len(arrival_s), np.nan))
