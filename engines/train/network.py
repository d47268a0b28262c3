"""The one network shape of the zoo: a residual net over images (2-D) or signals (1-D)."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASSES = 10

CONV = {1: nn.Conv1d, 2: nn.Conv2d}
UPCONV = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}


@dataclass(frozen=True, slots=True)
class Shape:
    """How wide and deep a variant is; each stage after the first halves the resolution.

    `blocks` counts the residual blocks of each stage; `upscale` enlarges the input in the first layer, so that
    compute comes from resolution rather than from parameters.
    """

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    kernel: int = 3
    upscale: int = 1

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks):
            raise ValueError("widths and blocks must name the same stages")


class NormedConv(nn.Module):
    """A convolution and its batch normalisation, which `fold` merges into one convolution."""

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y

    def fold(self) -> None:
        transposed = isinstance(self.conv, tuple(UPCONV.values()))
        self.conv = fuse_conv_bn_eval(self.conv, self.norm, transpose=transposed)
        self.norm = nn.Identity()


class Residual(nn.Module):
    """Two convolutions around which the input is carried past."""

    def __init__(self, dims: Literal[1, 2], width: int, kernel: int) -> None:
        super().__init__()
        self.first = normed_conv(dims, width, width, kernel)
        self.second = normed_conv(dims, width, width, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


def normed_conv(dims: Literal[1, 2], inputs: int, outputs: int, kernel: int, stride: int = 1) -> NormedConv:
    conv = CONV[dims](inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return NormedConv(conv, NORM[dims](outputs))


def stem(dims: Literal[1, 2], shape: Shape) -> NormedConv:
    """The first layer, from one channel to the first stage's width at `upscale` times the resolution."""
    width, factor = shape.widths[0], shape.upscale
    if factor == 1:
        return normed_conv(dims, 1, width, shape.kernel)
    conv = UPCONV[dims](1, width, 2 * factor, stride=factor, padding=factor // 2, bias=False)
    return NormedConv(conv, NORM[dims](width))


def residual_net(dims: Literal[1, 2], shape: Shape) -> nn.Sequential:
    """Stem, stages, global average and one linear layer that gives the class scores."""
    layers: dict[str, nn.Module] = {"stem": stem(dims, shape), "stem_relu": nn.ReLU()}
    width = shape.widths[0]
    for stage, (next_width, blocks) in enumerate(zip(shape.widths, shape.blocks, strict=True)):
        if stage > 0:
            layers[f"down{stage}"] = normed_conv(dims, width, next_width, shape.kernel, stride=2)
            layers[f"down{stage}_relu"] = nn.ReLU()
        for block in range(blocks):
            layers[f"stage{stage}_block{block}"] = Residual(dims, next_width, shape.kernel)
        width = next_width
    layers |= {"average": POOL[dims](1), "flatten": nn.Flatten(), "scores": nn.Linear(width, CLASSES)}
    return nn.Sequential(OrderedDict(layers))


class Committee(nn.Module):
    """Several nets that were trained apart; the scores are the mean of theirs."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        first, *others = [member(x) for member in self.members]
        return sum(others, first) / len(self.members)


def folded(net: nn.Module) -> nn.Module:
    """A copy of `net`, ready for use, with every batch normalisation merged into its convolution."""
    ready = copy.deepcopy(net).eval()
    for module in list(ready.modules()):
        if isinstance(module, NormedConv):
            module.fold()
    return ready
