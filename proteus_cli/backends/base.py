"""The interface of all backends, and the tensors that go into models and come out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from proteus_cli.buffers import Buffer
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import BackendInfo
from proteus_cli.errors import EngineError
from proteus_cli.units import format_size

LARGEST_ROW_BYTES = 2**30
"""One tensor. Samples and transfer buffers have the size that a model declares."""

SMALL_ROW_BYTES = 4 * 1024
"""Small rows are joined before they are copied, which costs less than a copy each."""

ANY_RUNNER_TAKES = 64
"""Rows of a batch that every runner takes; whether it takes more depends on how its engine was built."""

NamedArrays = dict[str, npt.NDArray[Any]]
"""Tensors by name; axis 0 is the batch."""

Part = tuple[int, tuple[Buffer, ...]]
"""Some rows of a batch: how many, and their inputs in the order of the signature."""

OutputArrays = tuple[npt.NDArray[Any], ...]
"""The outputs of some rows, in the order of the signature."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model: ``shape`` is without the batch axis; None where an output's size varies."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    @property
    def row_bytes(self) -> int:
        """The bytes of one row; sizes that vary count as 1."""
        return prod(self.sizes) * self.dtype.itemsize

    @property
    def sizes(self) -> tuple[int, ...]:
        """`shape`, where sizes that vary are 1."""
        return tuple(size or 1 for size in self.shape)

    @property
    def shape_text(self) -> str:
        """``[3,224,224]``, with ``?`` for a size that varies."""
        return f"[{','.join('?' if size is None else str(size) for size in self.shape)}]"

    def sample(self, rows: int, rng: np.random.Generator) -> npt.NDArray[Any]:
        """Random values of a number of rows."""
        shape = (rows, *self.sizes)
        values = rng.random(shape) if self.dtype.kind == "f" else rng.integers(0, 2, shape)
        return values.astype(self.dtype)

    def fits(self, other: "TensorSpec") -> bool:
        """Whether both are the same tensor; a size that varies in one of the two may be any in the other."""
        return (self.name, self.dtype, len(self.shape)) == (other.name, other.dtype, len(other.shape)) and all(
            a == b or None in {a, b} for a, b in zip(self.shape, other.shape, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model; the variants of a family share one signature.

    ``notes``: what its runner says of each row besides, behind the outputs, for the server only.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: tuple[TensorSpec, ...] = ()

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        """All that its runner gives of a row, in order."""
        return (*self.outputs, *self.notes)

    def told_apart(self, given: "OutputArrays") -> "tuple[OutputArrays, OutputArrays]":
        """The outputs and the notes of what its runner gave."""
        outputs = len(self.outputs)
        return (given, ()) if len(given) == outputs else (given[:outputs], given[outputs:])

    @property
    def row_bytes(self) -> int:
        """The bytes of one row, inputs and outputs together; sizes that vary count as 1."""
        return sum(spec.row_bytes for spec in (*self.inputs, *self.outputs))

    def sample(self, rows: int, rng: np.random.Generator) -> NamedArrays:
        """Random inputs for measuring: floats in [0, 1), else zeros and ones."""
        return {spec.name: spec.sample(rows, rng) for spec in self.inputs}

    def part(self, inputs: NamedArrays) -> Part:
        """Inputs by name as one part, copied only where their memory has gaps."""
        rows = len(inputs[self.inputs[0].name])
        arrays = (np.ascontiguousarray(inputs[spec.name]) for spec in self.inputs)
        return rows, tuple(values.reshape(-1).view(np.uint8).data for values in arrays)

    def sample_part(self, rows: int, rng: np.random.Generator) -> Part:
        """Random inputs as `sample` makes them, as one part."""
        return self.part(self.sample(rows, rng))

    def fits(self, other: "Signature") -> bool:
        """Whether both have the same tensors (`TensorSpec.fits`)."""
        return not self.differences(other)

    def differences(self, other: "Signature") -> list[str]:
        """Where the tensors of both do not fit, in words: ``"`x` has [3,240,240] against [3,224,224]"``."""
        return [
            *_differences("inputs", self.inputs, other.inputs),
            *_differences("outputs", self.outputs, other.outputs),
        ]


def gather(parts: Sequence[Part], which: int, target: memoryview, row_bytes: int) -> None:
    """Copy one input of all parts into ``target``, one part behind another; ``which`` is the input's place."""
    if row_bytes <= SMALL_ROW_BYTES:
        joined = b"".join([buffers[which] for _, buffers in parts])
        target[: sum([rows for rows, _ in parts]) * row_bytes] = joined  # raises where a part has other rows
        return
    first = 0
    for rows, buffers in parts:
        last = first + rows * row_bytes
        target[first:last] = buffers[which]
        first = last


def require_batched(where: str, shape: Sequence[object], *, is_input: bool) -> None:
    """Raises `EngineError` unless only axis 0 of a tensor is dynamic; other axes of an output may be, too.

    Sizes of dynamic axes are not positive numbers; ``where`` names the tensor.
    """
    is_dynamic = [not isinstance(size, int) or size < 0 for size in shape]
    if not is_dynamic or not is_dynamic[0]:
        raise EngineError(
            f"{where} has no dynamic batch axis (shape {shape}).",
            hint="export the model with axis 0 dynamic, so that queries can be batched",
        )
    if is_input and any(is_dynamic[1:]):
        raise EngineError(
            f"{where} has a dynamic axis besides the batch (shape {shape}).",
            hint="give every axis but the first a fixed size, so that queries can share a batch",
        )


def require_size(where: str, spec: TensorSpec) -> None:
    """Raises `EngineError` where a row of a tensor is larger than `LARGEST_ROW_BYTES`; ``where`` names the tensor."""
    if spec.row_bytes > LARGEST_ROW_BYTES:
        raise EngineError(
            f"A row of {where} takes {format_size(spec.row_bytes)}, more than {format_size(LARGEST_ROW_BYTES)}.",
            hint="is its shape what was meant when the model was exported?",
        )


def _differences(what: str, ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec]) -> Iterator[str]:
    if [spec.name for spec in ours] != [spec.name for spec in theirs]:
        yield f"{what} {_names(ours)} against {_names(theirs)}"
        return
    for one, other in zip(ours, theirs, strict=True):
        if one.dtype != other.dtype:
            yield f"`{one.name}` has {one.dtype} against {other.dtype}"
        elif not one.fits(other):
            yield f"`{one.name}` has {one.shape_text} against {other.shape_text}"


def _names(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(f"`{spec.name}`" for spec in specs)


class Runner(Protocol):
    """A loaded engine. ``memory_bytes`` is what loading it took, as far as that can be measured."""

    @property
    def signature(self) -> Signature: ...

    @property
    def memory_bytes(self) -> int: ...

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        """Run one batch. Raises `EngineError` where the model fails on it."""
        ...


@runtime_checkable
class SlottedRunner(Runner, Protocol):
    """The runner of a device that runs several batches at once: ``slots`` threads may call `infer` at a time.

    ``memory_bytes`` is the size of the engine with one slot, ``slot_bytes`` the size of each further slot.
    """

    @property
    def slots(self) -> int:
        """How many batches it can run at a time, at least 1."""
        ...

    @property
    def slot_bytes(self) -> int:
        """Memory of the device that each slot but the first takes."""
        ...

    def add_slot(self) -> None:
        """Add a slot. Raises `OutOfDeviceMemory`; then there are as many as before."""
        ...

    def compute_s(self, inputs: NamedArrays) -> float:
        """Run one batch; returns the seconds that the device computed by its own clock, without copies."""
        ...


class PowerMeter(Protocol):
    """The energy and power of a device; None where the device has no such counter."""

    def energy_j(self) -> float | None:
        """Energy since some moment in the past."""
        ...

    def power_w(self) -> float | None:
        """Power now, or the mean of the last moments."""
        ...

    def slowed_by(self) -> tuple[str, ...] | None:
        """Why the clocks are held down now, in words; empty where they are not."""
        ...


class Backend(Protocol):
    """Runs models on one kind of device. A backend that keeps the engines it builds needs the variant of a model.

    ``max_slots`` is the largest number of batches at once that is worth trying; where it is more than one, runners are
    a `SlottedRunner`. ``meter`` is None where the power of the device cannot be measured.
    """

    versions: BackendInfo
    max_slots: int

    @property
    def meter(self) -> PowerMeter | None:
        """The power meter of its device; None where there is none."""
        ...

    def prepare(self, model: Path, owner: VariantKey | None = None) -> float:
        """Build the engine of a model, unless it is current; returns the seconds that building it took, now or before.

        Raises `EngineError` where it cannot be built.
        """
        ...

    def runner(self, model: Path, owner: VariantKey | None = None) -> AbstractContextManager[Runner]:
        """Load a model; leaving the context frees it. Raises `EngineError` where it cannot be loaded."""
        ...


OnBuildProgress = Callable[[str, float], bool]
"""Called several times a second with the current step and the fraction that is done; returns whether to go on."""

WatchBuild = Callable[[str], AbstractContextManager[OnBuildProgress]]
"""Entered for as long as the engine of that name is built."""


@contextmanager
def unwatched(_name: str) -> Iterator[OnBuildProgress]:
    """A `WatchBuild` that shows no progress, and lets each build go on."""
    yield lambda _now, _done_frac: True


@dataclass(frozen=True, slots=True)
class BuildContext:
    """Engines are kept in the directory ``built``. New ones are built to be fastest at ``best_batch``.

    ``say`` is called with a line before an engine is built; ``watch`` follows the build, and may cancel it.
    """

    built: Path
    best_batch: int = ANY_RUNNER_TAKES
    say: Callable[[str], object] = lambda _line: None
    watch: WatchBuild = unwatched
