"""Halves of an eval split: thresholds are chosen on one, and judged on the other."""

import numpy as np

from proteus_cli.arrays import Bools, Ints

_SEED = 20_201_130


def halves(first: Bools, second: Bools) -> tuple[Ints, Ints]:
    """The rows to choose on and those to judge on, as indices; they differ by one row at most.

    ``first`` and ``second``: which rows each variant gets right. Each of the four patterns (both right, only the first,
    only the second, neither) is halved, so that both variants are as accurate on either half as on the whole, to about
    a row; else chance alone would make a cascade better or worse than its variants. Within a pattern the order is a
    random one, always the same, whatever the order of the split.
    """
    shuffled = np.random.default_rng(_SEED).permutation(len(first))
    pattern = 2 * first[shuffled].astype(np.int64) + second[shuffled]
    in_order = shuffled[np.argsort(pattern, kind="stable")]
    return in_order[::2], in_order[1::2]
