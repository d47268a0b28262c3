"""Emulated engines: the times of a profile, and outputs that are made up.

This is no `Backend`: without a model to run, `serving.devices.emulated` waits for as long as a batch takes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from proteus_cli.arrays import Floats
from proteus_cli.backends.base import OutputArrays, Part, Signature, TensorSpec
from proteus_cli.backends.exits.runner import NOTES
from proteus_cli.buffers import Buffer
from proteus_cli.domain.latency_table import LatencyTable
from proteus_cli.domain.profile import VariantProfile
from proteus_cli.domain.stages.exits import ExitProfile
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.stage_forecast import ExitBounds, stage_means
from proteus_cli.domain.stages.walk import ProfiledChain, Walk
from proteus_cli.errors import EngineError

NAME = "proteus_emulated"

STUB = Signature(
    inputs=(TensorSpec("x", np.dtype(np.float32), (1,)),), outputs=(TensorSpec("y", np.dtype(np.float32), (10,)),)
)
"""The signature of a family without ONNX files."""

_HASHED_BYTES = 4096  # of each row and input: enough to tell rows apart, and cheap for large images
_STEP = (math.sqrt(5) - 1) / 2  # spreads the scores of a row evenly
_SEEDS = 2**32


class EmulatedEngine:
    """A variant on a device with ``slots``, as its profile describes it. ``load_s`` is the time that loading takes.

    A multi-exit model goes through the stages of its ``exits`` one by one, and notes the exit of each row. Raises
    `EngineError` where the profile has no times.
    """

    def __init__(
        self, measured: VariantProfile, signature: Signature, slots: int = 1, exits: Sequence[ExitProfile] = ()
    ) -> None:
        if not measured.points_at(slots):
            raise EngineError(
                f"The profile of `{measured.variant}` has no times to emulate it with.",
                hint="measure it with `proteus profile`, or import it with `proteus profile --from-csv`",
            )
        self._exits, self._pace = exits, StagePace()
        self._chain = ProfiledChain(exits, stage_means(exits)) if exits else None
        self.signature = signature if self._chain is None else replace(signature, notes=NOTES)
        self.load_s = measured.load_s
        self._latencies_s = [
            LatencyTable(points, of=lambda point: point.mean_s) for points in measured.points_up_to(slots)
        ]
        self._seed = crc32(measured.variant.encode())

    def latency_s(self, rows: int, others: int = 0) -> float:
        """The time of a batch of ``rows`` that begins while ``others`` run on the device."""
        return self._latencies_s[others](rows)

    def walk(self, rows: int, bounds: ExitBounds | None, start_s: float, ranks: Callable[[int], Floats]) -> Walk | None:
        """How a batch goes through the stages of a multi-exit model, whose rows have ``ranks``; None for others.

        Without bounds it is tried out: it takes the mean of all batches, and no answer of it counts.
        """
        if self._chain is None:
            return None
        if bounds is None:
            return Walk(self.latency_s(rows), np.full(rows, len(self._exits)), np.zeros(rows, np.bool_))
        return self._chain.walk(self._chain.stops_at(ranks(rows)), bounds, self._pace, start_s)

    def scores(self, parts: Sequence[Part]) -> OutputArrays:
        """Outputs for all rows: the same for the same variant and row, different for any other."""
        seeds = np.fromiter(chain.from_iterable(self._seeds(*part) for part in parts), np.uint32)
        return tuple(_made_up(spec, seeds) for spec in self.signature.outputs)

    def _seeds(self, rows: int, inputs: Sequence[Buffer]) -> Iterator[int]:
        views = [(memoryview(content), len(content) // rows) for content in inputs]
        for row in range(rows):
            seed = self._seed
            for view, size in views:
                first = row * size
                seed = crc32(view[first : first + min(size, _HASHED_BYTES)], seed)
            yield seed


def notes_of(walk: Walk | None) -> OutputArrays:
    """The notes of a multi-exit model for each row. Made-up outputs have no confidence."""
    if walk is None:
        return ()
    unknown = np.full(len(walk.exits), np.nan, np.float32)
    exits = walk.exits.astype(np.uint8)
    energy_j = np.full(len(exits), np.nan) if walk.energy_j is None else walk.energy_j
    return exits, unknown, walk.cut, np.where(walk.cut, np.uint8(0), exits), energy_j


def _made_up(spec: TensorSpec, seeds: npt.NDArray[np.uint32]) -> npt.NDArray[Any]:
    """Values in [0, 1), or zeros and ones where they are whole numbers; sizes that vary are 1."""
    values = (seeds[:, np.newaxis] / _SEEDS + np.arange(math.prod(spec.sizes)) * _STEP) % 1.0
    if spec.dtype.kind != "f":
        values = np.floor(values * 2)
    return values.astype(spec.dtype).reshape(len(seeds), *spec.sizes)
