"""Train the `signals` family: MNIST-1D, digit-like signals of 40 steps, generated from a seed.

The noise is a little above that of the original data set, so that small models do not already solve it.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from fit import Family, Recipe, Samples, Variant, train_family
from mnist1d.data import get_dataset_args, make_dataset
from network import Shape, residual_net

TRAIN_ROWS = 16_000
EVAL_ROWS = 1_500
SEED = 42
CORRELATED_NOISE = 0.5
INDEPENDENT_NOISE = 0.025

LARGE = Shape(widths=(48, 64, 96), blocks=(2, 2, 1), kernel=5, upscale=10)
VARIANTS = {
    "signals-xs": Variant(Shape(widths=(6,), blocks=(1,)), Recipe(epochs=8)),
    "signals-s": Variant(Shape(widths=(8, 12), blocks=(1, 1), upscale=2), Recipe(epochs=8)),
    "signals-m": Variant(Shape(widths=(12, 16), blocks=(1, 2), upscale=4), Recipe(epochs=8)),
    "signals-l": Variant(Shape(widths=(24, 32), blocks=(1, 2), kernel=5, upscale=8), Recipe(epochs=6)),
    "signals-xl": Variant(LARGE, Recipe(epochs=5)),
    "signals-xxl": Variant(LARGE, Recipe(epochs=5), members=3),
}


def split() -> tuple[Samples, Samples]:
    """Rows for training and rows for evaluation, drawn apart from each other by one seeded generation."""
    args = get_dataset_args()
    args.num_samples, args.seed = TRAIN_ROWS + EVAL_ROWS, SEED
    args.train_split = TRAIN_ROWS / args.num_samples
    args.corr_noise_scale, args.iid_noise_scale = CORRELATED_NOISE, INDEPENDENT_NOISE
    data = make_dataset(args)
    return samples(data["x"], data["y"]), samples(data["x_test"], data["y_test"])


def samples(x: np.ndarray, y: np.ndarray) -> Samples:
    """Rows as [row, channel, step], rounded to what float16 can hold."""
    return torch.from_numpy(x.astype(np.float16).astype(np.float32)).unsqueeze(1), torch.from_numpy(y)


def main() -> None:
    train, held_out = split()
    family = Family(
        "signals",
        VARIANTS,
        build=lambda shape: residual_net(1, shape),
        draw_epoch=lambda _rng: train,
        held_out=held_out,
    )
    train_family(family, sys.argv[1:])


if __name__ == "__main__":
    main()
