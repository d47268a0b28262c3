"""Training and export, the same for every family."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import torch
from network import Committee, Shape, folded
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MODELS = Path(__file__).resolve().parent.parent / "models"
OPSET = 17

Samples = tuple[Tensor, Tensor]
"""Inputs as float32 and labels as int64, one row per sample."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one variant is trained."""

    epochs: int
    peak_lr: float = 4e-3
    batch: int = 64
    weight_decay: float = 1e-2
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of a family: what it looks like, how it is trained, and how many such nets form a committee."""

    shape: Shape
    recipe: Recipe
    members: int = 1


@dataclass(frozen=True, slots=True)
class Family:
    """The variants of one name and the data they share."""

    name: str
    variants: Mapping[str, Variant]
    build: Callable[[Shape], nn.Module]
    draw_epoch: Callable[[torch.Generator], Samples]
    held_out: Samples


def train_family(family: Family, wanted: list[str]) -> None:
    """Write the evaluation split, then train, write and score the wanted variants, or all if none is named."""
    folder = MODELS / family.name
    x, y = family.held_out
    write_eval(folder / "eval.npz", family.held_out)
    trained: dict[tuple[Shape, Recipe], nn.Module] = {}
    for name in wanted or family.variants:
        started_s = time.monotonic()
        path = folder / f"{name}.onnx"
        write_onnx(path, folded(train_variant(family, family.variants[name], trained)), x[:2])
        share = accuracy(open_model(path), x.numpy(), y.numpy())
        print(f"{name}: accuracy {share:.4f} after {time.monotonic() - started_s:.0f} s", flush=True)


def train_variant(family: Family, variant: Variant, trained: dict[tuple[Shape, Recipe], nn.Module]) -> nn.Module:
    """Train a variant's nets, each from its own seed; what is in `trained` already is not trained again."""
    nets = []
    for member in range(variant.members):
        recipe = replace(variant.recipe, seed=variant.recipe.seed + member)
        key = variant.shape, recipe
        if key not in trained:
            torch.manual_seed(recipe.seed)
            trained[key] = fit(family.build(variant.shape), family.draw_epoch, recipe)
        nets.append(trained[key])
    return nets[0] if len(nets) == 1 else Committee(nets)


def fit(net: nn.Module, draw_epoch: Callable[[torch.Generator], Samples], recipe: Recipe) -> nn.Module:
    """Train `net` in place on freshly drawn epochs; the learning rate rises for a fifth of the time, then falls."""
    torch.set_num_threads(1)  # a fixed order of summation, so that a run can be repeated
    rng = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.peak_lr, weight_decay=recipe.weight_decay)
    steps = recipe.epochs * (len(draw_epoch(rng)[1]) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.peak_lr, total_steps=steps, pct_start=0.2)
    for _ in range(recipe.epochs):
        for x, y in batches(draw_epoch(rng), recipe.batch, rng):
            optimizer.zero_grad()
            loss_of(net, x, y).backward()
            optimizer.step()
            schedule.step()
    return net


def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy; the forward pass runs in bfloat16, which is several times faster where the CPU has it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = net(x)
    return functional.cross_entropy(scores.float(), y)


def batches(samples: Samples, size: int, rng: torch.Generator) -> Iterator[Samples]:
    """Full batches in random order; the incomplete last one is left out."""
    x, y = samples
    order = torch.randperm(len(y), generator=rng)
    for rows in order[: len(y) // size * size].split(size):
        yield x[rows], y[rows]


def write_eval(path: Path, samples: Samples) -> None:
    """Write `x` (float16) and `y` (int64); the samples must survive float16 unchanged."""
    x, y = samples[0].numpy(), samples[1].numpy()
    halves = x.astype(np.float16)
    if not np.array_equal(halves.astype(np.float32), x):
        raise ValueError("the evaluation inputs are not exact in float16")
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, x=halves, y=y.astype(np.int64))


def write_onnx(path: Path, net: nn.Module, example: Tensor) -> None:
    """Write `net` as input[batch, ...] → scores[batch, 10], with weights inside the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        net,
        (example,),
        path,
        input_names=["input"],
        output_names=["scores"],
        dynamic_axes={"input": {0: "batch"}, "scores": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,
    )
    onnx.checker.check_model(onnx.load(path), full_check=True)


def open_model(path: Path) -> onnxruntime.InferenceSession:
    """Open an ONNX file on one CPU core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def accuracy(session: onnxruntime.InferenceSession, x: np.ndarray, y: np.ndarray, batch: int = 64) -> float:
    """The fraction of rows whose highest score is at the label."""
    hits = 0
    for start in range(0, len(y), batch):
        (scores,) = session.run(["scores"], {"input": x[start : start + batch]})
        hits += int((scores.argmax(axis=1) == y[start : start + batch]).sum())
    return hits / len(y)
