"""What every backend offers."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from proteus_cli.domain.buffer import Buffer
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import BackendInfo

ANY_RUNNER_TAKES = 64
"""Rows of a batch that every runner takes; more depend on how its engine was built."""

NamedArrays = dict[str, npt.NDArray[Any]]
"""Tensors by name; axis 0 is the batch."""

Part = tuple[int, tuple[Buffer, ...]]
"""Some rows of a batch: how many, and their inputs in the order of the signature."""

OutputArrays = tuple[npt.NDArray[Any], ...]
"""The outputs of some rows, in the order of the signature."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model: ``shape`` without the batch axis; None where an output's size varies."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @property
    def row_bytes(self) -> int:
        """The bytes of one row; sizes that vary count as 1."""
        return prod(size or 1 for size in self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes into a model and what comes out; the variants of a family share one."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def sample(self, rows: int, rng: np.random.Generator) -> NamedArrays:
        """Random inputs of so many rows, for measuring: uniform in [0, 1), or small whole numbers."""
        return {spec.name: _sample(spec, rows, rng) for spec in self.inputs}

    def part(self, inputs: NamedArrays) -> Part:
        """Inputs by name as one part, copied only where their memory has gaps."""
        rows = len(inputs[self.inputs[0].name])
        arrays = (np.ascontiguousarray(inputs[spec.name]) for spec in self.inputs)
        return rows, tuple(values.reshape(-1).view(np.uint8).data for values in arrays)

    def sample_part(self, rows: int, rng: np.random.Generator) -> Part:
        """Random inputs as `sample` makes them, as one part."""
        return self.part(self.sample(rows, rng))

    def fits(self, other: "Signature") -> bool:
        """The same tensors; a size that one of the two doesn't tell may be any."""
        return _fit(self.inputs, other.inputs) and _fit(self.outputs, other.outputs)


def gather(parts: Sequence[Part], which: int, target: memoryview, row_bytes: int) -> None:
    """Copy one input of all parts into ``target``, one part behind another; ``which`` is the input's place."""
    first = 0
    for rows, buffers in parts:
        last = first + rows * row_bytes
        target[first:last] = buffers[which]
        first = last


def _fit(ours: tuple[TensorSpec, ...], theirs: tuple[TensorSpec, ...]) -> bool:
    return len(ours) == len(theirs) and all(
        (one.name, one.dtype, len(one.shape)) == (other.name, other.dtype, len(other.shape))
        and all(a == b or None in {a, b} for a, b in zip(one.shape, other.shape, strict=True))
        for one, other in zip(ours, theirs, strict=True)
    )


def _sample(spec: TensorSpec, rows: int, rng: np.random.Generator) -> npt.NDArray[Any]:
    shape = (rows, *(size or 1 for size in spec.shape))
    if spec.dtype.kind == "f":
        return rng.random(shape).astype(spec.dtype)
    return rng.integers(0, 2, shape).astype(spec.dtype)


class Runner(Protocol):
    """A loaded engine. ``memory_bytes`` is what loading it took, as far as that can be told."""

    @property
    def signature(self) -> Signature: ...

    @property
    def memory_bytes(self) -> int: ...

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        """Run one batch. Raises `EngineError` where the model fails on it."""
        ...


@runtime_checkable
class SlottedRunner(Runner, Protocol):
    """One of a device that can have several batches at once: `infer` may be called from as many threads as ``slots``.

    ``memory_bytes`` is that of the engine with one slot, ``slot_bytes`` what each more takes.
    """

    @property
    def slots(self) -> int: ...

    @property
    def slot_bytes(self) -> int: ...

    def add_slot(self) -> None:
        """Make one more. Raises `OutOfDeviceMemory`; then there are as many as before."""
        ...

    def compute_s(self, inputs: NamedArrays) -> float:
        """Run one batch. The seconds that the device computed by its own clock, copies not included."""
        ...


class PowerMeter(Protocol):
    """What a device draws; None where it doesn't tell."""

    def energy_j(self) -> float | None:
        """Since some moment in the past."""
        ...

    def power_w(self) -> float | None:
        """Now, or on the mean of the last moments."""
        ...

    def slowed_by(self) -> tuple[str, ...] | None:
        """Why its clocks are held down now, in words; empty where they aren't."""
        ...


class Backend(Protocol):
    """Runs models on one kind of device. One that keeps what it builds has to know whose a model is, its ``owner``.

    ``max_slots``: as many batches as it is worth trying to have on the device at once. Where it is more than one,
    runners are a `SlottedRunner`. ``meter`` is None where nobody knows what the device draws.
    """

    versions: BackendInfo
    max_slots: int

    @property
    def meter(self) -> PowerMeter | None: ...

    def prepare(self, model: Path, owner: VariantKey | None = None) -> float:
        """Build what loading a model needs, if it isn't there yet. How many seconds building it took, now or before.

        Raises `EngineError` where it can't be built.
        """
        ...

    def runner(self, model: Path, owner: VariantKey | None = None) -> AbstractContextManager[Runner]:
        """Load a model; leaving the context frees it. Raises `EngineError` where it can't be loaded."""
        ...
