"""Whether a third stage pays: cascades of three variants beside those of two, on rows that had no part in finding them.

The second stage defers again what it is not sure of. Both thresholds are ones that the profile knows of these pairs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from benchmarks.cascades.tables_of import FRESH_FRAC, MULTIPLES
from benchmarks.cascades.zoo import Measured
from benchmarks.tables import Table
from proteus_cli.arrays import Ints
from proteus_cli.profiling.cascade_options import Option
from proteus_cli.profiling.cascades import hull

DRAWS = 20


@dataclass(frozen=True)
class Chain:
    """Variants, the fastest first, and below which confidence each defers to the next."""

    variants: tuple[str, ...]
    thresholds: tuple[float, ...]

    def judged(self, of: Measured, rows: Ints) -> tuple[float, float]:
        """Accuracy and rate of one core."""
        asked = np.ones(len(rows), dtype=bool)
        correct, seconds = np.zeros(len(rows), dtype=bool), 0.0
        for variant, threshold in zip(self.variants, (*self.thresholds, -np.inf), strict=True):
            seconds += float(asked.mean()) / of.rates_qps[variant]
            correct = np.where(asked, of.correct(variant)[rows], correct)
            asked = asked & (of.confidences(variant)[rows] < threshold)
        return float(correct.mean()), 1 / seconds


def gains(of: Measured, draws: int = DRAWS) -> dict[int, list[float]]:
    """By demand, how much more accurate the best mix is where chains may have three stages; for ways to draw the rows.

    The demand is in multiples of what the most accurate variant carries. Chains are found on most rows, and compared
    on the others.
    """
    found: dict[int, list[float]] = {multiple: [] for multiple in MULTIPLES}
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(of.rows)
        fresh, known = np.split(order, [int(of.rows * FRESH_FRAC)])
        shorter = list(_up_to_two(of.on(known)))
        longer = [*shorter, *_of_three(of, shorter)]
        most_accurate = max((Chain((name,), ()) for name in of.answers), key=lambda chain: chain.judged(of, known)[0])
        seconds = 1 / most_accurate.judged(of, known)[1]
        for multiple in MULTIPLES:
            with_three, without = (_mixed(of, some, known, fresh, seconds / multiple) for some in (longer, shorter))
            found[multiple].append(with_three - without)
    return found


def _mixed(of: Measured, chains: Sequence[Chain], known: Ints, fresh: Ints, seconds: float) -> float:
    """On the ``fresh`` rows, how accurate the mix is that is best on the others within so many seconds per query."""
    on_known = (chain.judged(of, known) for chain in chains)
    fastest, *others = sorted((1 / qps, accuracy, place) for place, (accuracy, qps) in enumerate(on_known))
    points = [fastest, *(others[vertex.place] for vertex in hull([each[:2] for each in others], fastest[:2]))]
    on_fresh = [chains[place].judged(of, fresh)[0] for _, _, place in points]
    return float(np.interp(seconds, [each[0] for each in points], on_fresh))


def _up_to_two(options: Sequence[Option]) -> Iterator[Chain]:
    """Variants alone first."""
    for option in sorted(options, key=lambda option: option.second is not None):
        if option.second is None or option.point is None:
            yield Chain((option.first,), ())
        else:
            yield Chain((option.first, option.second), (option.point.threshold,))


def _of_three(of: Measured, shorter: Sequence[Chain]) -> Iterator[Chain]:
    thresholds: dict[tuple[str, ...], list[float]] = {}
    for chain in shorter:
        if len(chain.variants) > 1:
            thresholds.setdefault(chain.variants, []).append(chain.thresholds[0])
    fastest_first = sorted(of.answers, key=lambda variant: -of.rates_qps[variant])
    for first, second, third in combinations(fastest_first, 3):
        pairs = thresholds.get((first, second), []), thresholds.get((second, third), [])
        yield from (Chain((first, second, third), both) for both in product(*pairs))


def table(found: Mapping[str, Mapping[int, Sequence[float]]]) -> Table:
    """By family."""
    rows = tuple(
        (family, *(f"{100 * np.mean(each):+.2f} ± {100 * np.std(each):.2f}" for each in of.values()))
        for family, of in found.items()
    )
    return Table(
        "What a third stage gains, in points of accuracy",
        ("family", *(f"at {multiple} ×" for multiple in MULTIPLES)),
        rows,
        f"On {FRESH_FRAC:.0%} of the rows, which had no part in finding the cascades: means and standard deviations.\n"
        "Demand in multiples of what the most accurate variant carries.",
    )
