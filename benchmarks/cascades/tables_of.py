"""What cascades of a family are worth: by thresholds that no label chose, as profiled, and on rows nobody has seen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmarks.cascades.zoo import Find, Measured
from benchmarks.tables import UNKNOWN, Aim, Table
from proteus_cli.arrays import Ints
from proteus_cli.profiling.cascade_options import AS_ACCURATE_FRAC, Option, frontier
from proteus_cli.profiling.cascades import cascades_of

STUDIED = (("digits", "m", "xxl", 0.20), ("signals", "xl", "xxl", 0.05), ("signals", "l", "xxl", 0.10))
"""Cascades with a deferred fraction that was set beforehand: family, first, second."""
MULTIPLES = (4, 10, 20)
"""Demand, in multiples of what the most accurate variant carries."""
DRAWS = 100
FRESH_FRAC = 0.2
"""The part of the rows that has no part in finding cascades; the others are nearly as many as a profile has."""
SPEED_UPS = {"digits": 3.0, "signals": 2.2}
"""What a cascade is to carry, in multiples of the most accurate variant, at the same accuracy."""


@dataclass(frozen=True)
class Unseen:
    """On rows that had no part in finding the options, of one way to draw them.

    Of the most accurate cascade that carries `SPEED_UPS` of the most accurate variant: the ratio of rates, and by how
    much it is more accurate, as a fraction; None where there was no such cascade. ``gains``: by demand, how much more
    accurate options with cascades are than those without. ``too_high``: how much less accurate they are than promised.
    """

    speed_up: float | None
    gain: float | None
    gains: dict[int, float]
    too_high: float


def mixed(options: Sequence[Option], seconds: float) -> list[tuple[float, Option]]:
    """The shares of the options that are the most accurate within so many seconds per query."""
    best = frontier(list(options))
    if 1 / best[-1].qps <= seconds:
        return [(1.0, best[-1])]
    for fast, slow in pairwise(best):
        if 1 / fast.qps <= seconds < 1 / slow.qps:
            share = (seconds - 1 / fast.qps) / (1 / slow.qps - 1 / fast.qps)
            return [(1 - share, fast), (share, slow)]
    return [(1.0, best[0])]


def alone(options: Sequence[Option]) -> list[Option]:
    """The variants without cascades."""
    return [option for option in options if option.second is None]


def accuracy_of(mix: Sequence[tuple[float, Option]]) -> float:
    return sum(share * option.accuracy for share, option in mix)


# --- thresholds that no label chose


def studied(families: Sequence[Measured]) -> Table:
    """Cascades whose threshold is a quantile of the confidence, on all rows, beside the best mix of two variants."""
    rows = []
    for of in families:
        every = np.arange(of.rows)
        variants = alone(of.on(every))
        best = max(variants, key=lambda option: option.accuracy)
        for family, first, second, deferred_frac in STUDIED:
            names = f"{family}-{first}", f"{family}-{second}"
            if family != of.family.name or not set(names) <= set(of.rates_qps):
                continue
            deferred = of.confidences(names[0]) < np.quantile(of.confidences(names[0]), deferred_frac)
            accuracy = float(np.where(deferred, of.correct(names[1]), of.correct(names[0])).mean())
            seconds = 1 / of.rates_qps[names[0]] + float(deferred.mean()) / of.rates_qps[names[1]]
            mix = accuracy_of(mixed(variants, seconds))
            cells = f"{deferred.mean():.0%}", f"{1 / seconds:,.0f}", f"{accuracy:.4f}", f"{mix:.4f}"
            rows.append((f"{names[0]} → {names[1]}", *cells, f"{best.accuracy:.4f} at {best.qps:,.0f}"))
    return Table(
        "Thresholds that defer a part that was set beforehand, on all rows",
        ("cascade", "deferred", "qps", "accuracy", "best mix of variants", "most accurate variant"),
        tuple(rows),
        "qps: of one core, by the time of both stages. Best mix: two variants that share queries, at as many qps.",
    )


# --- as profiled


def profiled_table(of: Measured) -> Table:
    """The frontier of variants and cascades, as `proteus profile` has it, beside that of variants."""
    options = of.on(np.arange(of.rows))
    return Table(
        f"{of.family.name}: as profiled, on {of.rows:,} rows",
        ("answered by", "deferred", "qps", "accuracy", "95 % interval", "best mix of variants"),
        tuple(_frontier_rows(options)),
    )


def _frontier_rows(options: Sequence[Option]) -> Iterator[tuple[str, ...]]:
    for option in frontier(list(options)):
        mix = f"{accuracy_of(mixed(alone(options), 1 / option.qps)):.4f}"
        rate, accuracy = f"{option.qps:,.0f}", f"{option.accuracy:.4f}"
        if option.point is None:
            yield option.first, UNKNOWN, rate, accuracy, UNKNOWN, mix
        else:
            interval = f"{option.point.low:.3f} to {option.point.high:.3f}"
            name, deferred = f"{option.first} → {option.second}", f"{option.point.deferred_frac:.0%}"
            yield name, deferred, rate, accuracy, interval, mix


# --- on rows that nobody has seen


def unseen(of: Measured, draws: int, find: Find = cascades_of) -> list[Unseen]:
    """Options found on most rows and compared on the others, for so many ways to draw these at random."""
    found = []
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(of.rows)
        fresh = int(of.rows * FRESH_FRAC)
        found.append(_unseen(of, of.on(order[fresh:], find), order[:fresh]))
    return found


def _unseen(of: Measured, options: Sequence[Option], fresh: Ints) -> Unseen:
    best = max(alone(options), key=lambda option: option.accuracy)
    min_qps = SPEED_UPS.get(of.family.name, 1.0) * best.qps
    fast = [option for option in options if option.second is not None and option.qps >= min_qps]
    speed_up = gain = None
    if fast:
        chosen = max(fast, key=lambda option: option.accuracy)
        (accuracy, rate_qps), (best_accuracy, best_qps) = of.judged(chosen, fresh), of.judged(best, fresh)
        speed_up, gain = rate_qps / best_qps, accuracy - best_accuracy
    gains, too_high = {}, []
    for multiple in MULTIPLES:
        with_cascades, without = (mixed(some, 1 / (multiple * best.qps)) for some in (options, alone(options)))
        on_fresh = _on(of, with_cascades, fresh)
        gains[multiple] = on_fresh - _on(of, without, fresh)
        too_high.append(accuracy_of(with_cascades) - on_fresh)
    return Unseen(speed_up, gain, gains, float(np.mean(too_high)))


def _on(of: Measured, mix: Sequence[tuple[float, Option]], rows: Ints) -> float:
    """The accuracy of a mix on rows."""
    return sum(share * of.judged(option, rows)[0] for share, option in mix)


def unseen_table(found: Mapping[tuple[str, str], Sequence[Unseen]]) -> Table:
    """By family, and by how thresholds were chosen."""
    rows = []
    for (family, by), draws in found.items():
        each = [draw for draw in draws if draw.speed_up is not None]
        cells = [by, f"{len(each)} of {len(draws)}", f"{_mean([draw.speed_up for draw in each]):.1f} ×"]
        cells += [_points([draw.gain for draw in each])]
        cells += [_points([draw.gains[multiple] for draw in draws]) for multiple in MULTIPLES]
        rows.append((family, *cells, _points([draw.too_high for draw in draws])))
    demands = (f"gain at {multiple} ×" for multiple in MULTIPLES)
    return Table(
        f"On {FRESH_FRAC:.0%} of the rows, drawn at random, that had no part in finding the cascades",
        ("family", "thresholds", "found", "carries", "less the best variant", *demands, "promised too much"),
        tuple(rows),
        "Means and standard deviations, in points. Carries: the most accurate cascade that is to carry so much, in\n"
        "multiples of the most accurate variant. Gain: accuracy with cascades less that without, where demand is so\n"
        "many times what the most accurate variant carries. By labels: chosen on one half, judged on the other.",
    )


def aims(family: str, draws: Sequence[Unseen]) -> Iterator[Aim]:
    each = [draw for draw in draws if draw.speed_up is not None]
    speed_up, gain = _mean([draw.speed_up for draw in each]), _mean([draw.gain for draw in each])
    least = SPEED_UPS.get(family, 1.0)
    yield Aim(f"{family}: rate of a cascade over the best variant's", speed_up, least, "×", is_most=False)
    what = f"{family}: what that cascade is less accurate than the best variant, unseen"
    yield Aim(what, -100 * gain, 100 * AS_ACCURATE_FRAC, "points", is_most=True)
    for multiple in MULTIPLES:
        more = 100 * _mean([draw.gains[multiple] for draw in draws])
        what = f"{family}: gain over variants alone at {multiple} × the demand, unseen"
        yield Aim(what, more, 0.0, "points", is_most=False)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0


def _points(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    return f"{np.mean(known):+.2f} ± {np.std(known):.2f}" if known else UNKNOWN
