"""Kinds of arrivals, each a function of a mix of families, a duration and a generator."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from proteus_cli.arrays import Floats, Ints
from proteus_cli.domain.trace import Trace
from proteus_cli.replay.synthesis import Gamma, Poisson, families_at, zipf_shares

Mix = Mapping[str, float]
"""Parts of the whole demand by family."""

Kind = Callable[[Mix, float, np.random.Generator], Trace]
"""A trace of a mix that lasts so many seconds."""

LOW_QPS, HIGH_QPS = 150.0, 1085.0
CLUMP_S = 0.03
SCATTER_WINDOW_S = 0.3


def scatter(traces: Sequence[Trace]) -> tuple[float, float, float]:
    """Queries in windows of 300 ms: how many half of them have at most, nine in ten, and 99 in a hundred."""
    windows = [np.bincount((trace.arrival_s / SCATTER_WINDOW_S).astype(int)) for trace in traces]
    median, p90, p99 = np.quantile(np.concatenate(windows), (0.5, 0.9, 0.99)).tolist()
    return median, p90, p99


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
