"""Small convolutional nets for pictures and signals, trained by PyTorch, which only this module imports.

A residual net (He et al., "Deep residual learning for image recognition", 2016): a stem, stages that halve the
resolution and double the width, the average over what is left, and one linear layer.
"""

import io
import math
import warnings
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional

from proteus_cli.arrays import Ints, Singles
from proteus_cli.variants.training.layout import Layout, layout_of

OPSET = 17
OUTPUT = "scores"
MAX_STAGES, FEWEST_LEFT = 3, 4
"""A stage more halves the resolution, as long as so many values are left along each axis."""
MAX_EPOCHS, MAX_ROWS = 40, 400_000
"""A net sees each row so often at most, and so many rows in all."""
BATCH, PEAK_LR, WEIGHT_DECAY = 64, 4e-3, 1e-2
RISES_FRAC = 0.2
"""The part of the training in which the learning rate rises; then it falls."""

_CONV, _NORM = (nn.Conv1d, nn.Conv2d), (nn.BatchNorm1d, nn.BatchNorm2d)
_POOL = nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d


def trained(name: str, x: Singles, y: Ints, seed: int, width: int) -> bytes:
    """An ONNX model with one input ``name``, [batch, …] as the rows are, and one output: a probability by class.

    The first stage has ``width`` channels. Raises `ValueError` where rows are neither pictures nor signals.
    """
    layout = layout_of(x.shape[1:])
    if layout is None:
        raise ValueError(f"rows of shape {x.shape[1:]} are neither pictures nor signals")
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the same rows give the same model
    net = _net(layout, x, int(y.max()) + 1, width)
    _fit(net, torch.from_numpy(x), torch.from_numpy(y), seed)
    return _as_onnx(net, name, torch.from_numpy(x[:2]))


class Standardised(nn.Module):  # type: ignore[misc]  # torch is not there where types are checked
    """Rows with their channels first, each of mean 0 and deviation 1 over all rows ``x``."""

    def __init__(self, layout: Layout, x: Singles) -> None:
        super().__init__()
        self._layout = layout
        rows = self._channels_first(torch.from_numpy(x)).numpy()
        axes = (0, *range(2, rows.ndim))
        mean, deviation = (of(rows, axis=axes, keepdims=True, dtype=np.float64) for of in (np.mean, np.std))
        scale = np.where(deviation > 0, deviation, 1.0)
        self.register_buffer("mean", torch.from_numpy(mean.astype(np.float32)))
        self.register_buffer("scale", torch.from_numpy(scale.astype(np.float32)))

    def forward(self, batch: Any) -> Any:
        return (self._channels_first(batch) - self.mean) / self.scale

    def _channels_first(self, batch: Any) -> Any:
        if not self._layout.has_channels:
            return batch.unsqueeze(1)
        return batch.permute(0, batch.ndim - 1, *range(1, batch.ndim - 1)) if self._layout.channels_last else batch


class Residual(nn.Module):  # type: ignore[misc]  # as above
    """Two convolutions around which the input is carried past."""

    def __init__(self, dims: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_conv(dims, width, width), *_conv(dims, width, width)[:-1])

    def forward(self, batch: Any) -> Any:
        return torch.relu(batch + self.inner(batch))


def _net(layout: Layout, x: Singles, classes: int, width: int) -> Any:
    """The whole net, from rows as they come to scores."""
    rows, dims = Standardised(layout, x), layout.dims
    extent = rows(torch.from_numpy(x[:1])).shape[2:]
    layers = [rows, *_conv(dims, layout.channels, width), Residual(dims, width)]
    for _ in range(min(MAX_STAGES - 1, int(math.log2(min(extent) / FEWEST_LEFT)))):
        layers += [*_conv(dims, width, 2 * width, stride=2), Residual(dims, 2 * width)]
        width *= 2
    return nn.Sequential(*layers, _POOL[dims - 1](1), nn.Flatten(), nn.Linear(width, classes))


def _conv(dims: int, inputs: int, outputs: int, *, stride: int = 1) -> list[Any]:
    """A convolution, its batch normalisation, and a rectifier."""
    conv = _CONV[dims - 1](inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return [conv, _NORM[dims - 1](outputs), nn.ReLU()]


def _fit(net: Any, x: Any, y: Any, seed: int) -> None:
    """Train in place."""
    rng, rows = torch.Generator().manual_seed(seed), len(y)
    size, epochs = min(BATCH, rows), min(MAX_EPOCHS, math.ceil(MAX_ROWS / rows))
    optimizer, steps = torch.optim.AdamW(net.parameters(), lr=PEAK_LR, weight_decay=WEIGHT_DECAY), rows // size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=epochs * steps, pct_start=RISES_FRAC)
    net.train()
    for _ in range(epochs):
        for places in torch.randperm(rows, generator=rng)[: steps * size].split(size):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[places]), y[places]).backward()
            optimizer.step()
            schedule.step()


def _as_onnx(net: Any, name: str, example: Any) -> bytes:
    """With batch normalisations merged into convolutions, and probabilities in place of scores without bounds."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the exporter that is to follow needs another package
        torch.onnx.export(
            nn.Sequential(net, nn.Softmax(dim=1)).eval(), (example,), content, input_names=[name],
            output_names=[OUTPUT], dynamic_axes={name: {0: "batch"}, OUTPUT: {0: "batch"}}, opset_version=OPSET,
            dynamo=False,
        )  # fmt: skip
    made = onnx.load_from_string(content.getvalue())
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))
