"""Train the `digits` family: handwritten digits of 32x32 pixels, moved, turned and noisy.

The originals are scikit-learn's `load_digits` (8x8). Those held out for evaluation are never trained on, in any form.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from fit import Family, Recipe, Samples, Variant, train_family
from network import Shape, residual_net
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

SIDE = 32
EVAL_FRAC = 0.3
TRAIN_COPIES = 2
EVAL_COPIES = 3
SPLIT_SEED = 20
EVAL_SEED = 21


@dataclass(frozen=True, slots=True)
class Distortion:
    """How far a copy may stray from its original; each amount is drawn per copy."""

    turn_rad: float = math.radians(25)
    shift_frac: float = 0.15
    zoom_frac: float = 0.25
    shear_frac: float = 0.25
    noise: float = 0.33


LARGE = Shape(widths=(32, 48, 64), blocks=(3, 4, 1))
VARIANTS = {
    "digits-xs": Variant(Shape(widths=(4, 8, 8), blocks=(0, 0, 1)), Recipe(epochs=30)),
    "digits-s": Variant(Shape(widths=(8, 16), blocks=(0, 2)), Recipe(epochs=40)),
    "digits-m": Variant(Shape(widths=(16, 32), blocks=(0, 2)), Recipe(epochs=24)),
    "digits-l": Variant(Shape(widths=(16, 32), blocks=(3, 2)), Recipe(epochs=24)),
    "digits-xl": Variant(Shape(widths=(32, 48, 64), blocks=(2, 4, 1)), Recipe(epochs=18)),
    "digits-xxl": Variant(LARGE, Recipe(epochs=20), members=3),
}


def split() -> tuple[Samples, Samples]:
    """Originals for training and for evaluation, enlarged to 32x32, with pixels in [0, 1]."""
    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    x = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    y = torch.from_numpy(digits.target).long()
    train, held_out = train_test_split(range(len(y)), test_size=EVAL_FRAC, stratify=y, random_state=SPLIT_SEED)
    return (x[train], y[train]), (x[held_out], y[held_out])


def distort(x: Tensor, amount: Distortion, rng: torch.Generator) -> Tensor:
    """Copies of `x`, each turned, sheared, zoomed, moved and made noisy by its own draw; pixels are n/64."""
    turn, shear, zoom, right, down = (2 * torch.rand(5, len(x), generator=rng) - 1).unbind()
    angle, scale = turn * amount.turn_rad, torch.exp(zoom * amount.zoom_frac)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = torch.stack((cos, -sin + shear * amount.shear_frac, 2 * right * amount.shift_frac), dim=1)
    columns = torch.stack((sin, cos, 2 * down * amount.shift_frac), dim=1)
    grid = functional.affine_grid(torch.stack((rows, columns), dim=1), list(x.shape), align_corners=False)
    moved = functional.grid_sample(x, grid, align_corners=False)
    noisy = moved + amount.noise * torch.randn(x.shape, generator=rng)
    return noisy.mul(64).round().clamp(0, 64) / 64


def copies(originals: Samples, count: int, rng: torch.Generator) -> Samples:
    """`count` distorted copies of each original."""
    x, y = originals
    return distort(x.repeat(count, 1, 1, 1), Distortion(), rng), y.repeat(count)


def build(shape: Shape) -> nn.Module:
    """An untrained net; channels-last is the layout in which 2-D convolutions train fastest."""
    return residual_net(2, shape).to(memory_format=torch.channels_last)


def main() -> None:
    train, held_out = split()
    family = Family(
        "digits",
        VARIANTS,
        build=build,
        draw_epoch=lambda rng: copies(train, TRAIN_COPIES, rng),
        held_out=copies(held_out, EVAL_COPIES, torch.Generator().manual_seed(EVAL_SEED)),
    )
    train_family(family, sys.argv[1:])


if __name__ == "__main__":
    main()
