"""Train the multi-exit model of the sample zoo: the net of `digits-xl`'s kind, with an exit after each of four parts.

All exits are trained together, as in BranchyNet (Teerapittayanon et al., 2016): the loss is a sum of theirs. The file
has one output of scores for each exit, and the tensors that `proteus catalog split` cuts it at: `part1`, `part2` and
`part3`. The rows and their split are those of `digits`, so that its eval split serves.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import onnx
import torch
from digits import copies, split
from fit import MODELS, OPSET, batches, open_model
from network import CLASSES, Residual, folded, normed_conv
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = 4
WIDTHS = (16, 24, 32, 48)
BLOCKS = (1, 1, 2, 2)  # residual blocks of each part
STRIDES = (2, 1, 2, 1)
HIDDEN = (24, 32, 48, 48)  # channels of each exit's own convolution
WEIGHTS = (0.5, 0.7, 1.0, 1.5)  # of the loss of each exit
EPOCHS, TRAIN_COPIES, BATCH = 28, 2, 64
PEAK_LR, WEIGHT_DECAY = 4e-3, 1e-2
SEED = 7
PATH = MODELS / "exits" / "digits-exits.onnx"


class Exit(nn.Module):
    """Scores from the features of a part: a convolution, the average over the picture, one linear layer."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.own = normed_conv(2, width, hidden, 3, stride=2)
        self.scores = nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(torch.relu(self.own(x)).mean(dim=(2, 3)))


class ExitNet(nn.Module):
    """Parts one after the other, each with an exit; gives the scores of every exit."""

    def __init__(self) -> None:
        super().__init__()
        self.parts, self.exits = nn.ModuleList(), nn.ModuleList()
        inputs = 1
        for width, blocks, stride, hidden in zip(WIDTHS, BLOCKS, STRIDES, HIDDEN, strict=True):
            layers = [normed_conv(2, inputs, width, 3, stride=stride), nn.ReLU()]
            self.parts.append(nn.Sequential(*layers, *(Residual(2, width, 3) for _ in range(blocks))))
            self.exits.append(Exit(width, hidden))
            inputs = width

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The scores of each exit, and the features of each part but the last."""
        scores, features = [], []
        for part, leave in zip(self.parts, self.exits, strict=True):
            x = part(x)
            scores.append(leave(x))
            features.append(x)
        return (*scores, *features[:-1])


def trained() -> ExitNet:
    """The net after `EPOCHS` freshly drawn epochs; the learning rate rises for a fifth of the time, then falls."""
    torch.set_num_threads(1)  # a fixed order of summation, so that a run can be repeated
    torch.manual_seed(SEED)
    rng = torch.Generator().manual_seed(SEED)
    originals, _ = split()
    net = ExitNet().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (TRAIN_COPIES * len(originals[1]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=steps, pct_start=0.2)
    for _ in range(EPOCHS):
        for x, y in batches(copies(originals, TRAIN_COPIES, rng), BATCH, rng):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = net(x)
            loss_of(outputs[:PARTS], y).backward()
            optimizer.step()
            schedule.step()
    return net


def loss_of(exits: Sequence[Tensor], y: Tensor) -> Tensor:
    """The cross entropies of all exits, weighted and added."""
    each = [weight * functional.cross_entropy(scores.float(), y) for weight, scores in zip(WEIGHTS, exits, strict=True)]
    return torch.stack(each).sum()


def write(net: nn.Module) -> None:
    """Write `net` as input[batch, 1, 32, 32] → the [batch, 10] of each exit: scores1, scores2, scores3, scores."""
    PATH.parent.mkdir(parents=True, exist_ok=True)
    cuts = [f"part{place}" for place in range(1, PARTS)]
    names = [*(f"scores{place}" for place in range(1, PARTS)), "scores", *cuts]
    torch.onnx.export(
        net, (torch.zeros(2, 1, 32, 32),), PATH, input_names=["input"], output_names=names,
        dynamic_axes={name: {0: "batch"} for name in ("input", *names)}, opset_version=OPSET, dynamo=False,
    )  # fmt: skip
    model = onnx.load(PATH)
    kept = [value for value in model.graph.output if value.name not in cuts]  # cuts stay as tensors within
    inner = [value for value in model.graph.output if value.name in cuts]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    model.graph.value_info.extend(inner)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, PATH)


def main() -> None:
    started_s = time.monotonic()
    write(folded(trained()))
    with np.load(MODELS / "digits" / "eval.npz") as data:
        x, y = data["x"].astype(np.float32), data["y"]
    exits = open_model(PATH).run(None, {"input": x})
    shares = ", ".join(f"{float((scores.argmax(1) == y).mean()):.4f}" for scores in exits)
    print(f"digits-exits: accuracies {shares} after {time.monotonic() - started_s:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
