"""A request as the data plane takes it, whichever protocol it came by."""

from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

import msgspec
import numpy as np

from proteus_cli.backends.base import TensorSpec
from proteus_cli.buffers import Buffer
from proteus_cli.domain.request import Bounds


class RequestOptions(msgspec.Struct, frozen=True, gc=False):
    """Options of a request beside its tensors; None and 0 stand for the family's own.

    ``client`` is a key of who asks, which keeps the version of its answers while one is rolled out. Where the timeout
    ``is_left_of_call``, it is what the client's own deadline has left, and no parameter; that was ``asked_timeout_s``.
    """

    timeout_s: float | None = None
    priority: int = 0
    min_accuracy: float = 0.0
    bounds: Bounds | None = None
    client: str | None = None
    is_left_of_call: bool = False
    asked_timeout_s: float | None = None

    @property
    def asks_for_more(self) -> bool:
        """Whether the client asks for more than the SLO of the family: by a timeout of its own, or by bounds."""
        timeout_s = self.asked_timeout_s if self.is_left_of_call else self.timeout_s
        return timeout_s is not None or bool(self.min_accuracy) or self.bounds is not None


DEFAULT_OPTIONS = RequestOptions()


class Classes(msgspec.Struct, frozen=True, gc=False):
    """A form of output: the ``count`` classes with the highest values, in place of all values."""

    count: int
    as_binary: bool


Form = bool | Classes
"""How an output is wanted: its values, as binary or not; or its highest classes."""


class Query(msgspec.Struct, frozen=True, eq=False):
    """A request to a family, besides its tensors of ``rows`` rows each.

    ``outputs`` are the wanted ones, in order, each as (index in the signature, its form).
    """

    family: str
    rows: int
    outputs: tuple[tuple[int, Form], ...]
    options: RequestOptions = DEFAULT_OPTIONS
    id: str | None = None


ResultT = TypeVar("ResultT")


class InThreads(Generic[ResultT]):
    """Work that is done in threads, in ``steps`` that take long in C, without the GIL.

    A step yields whether the next one is large. Large steps are done one at a time. The result takes ``memory_bytes``.
    """

    __slots__ = ("memory_bytes", "steps")

    def __init__(self, steps: Generator[bool, None, ResultT], memory_bytes: int) -> None:
        self.steps, self.memory_bytes = steps, memory_bytes


def capped_timeout_s(asked_s: float | None, slo_s: float, max_timeout_s: float) -> float:
    """The timeout of a request: what it asks for, at most the largest of both limits; without that, the SLO."""
    return slo_s if asked_s is None else min(asked_s, max(max_timeout_s, slo_s))


Inputs = tuple[Buffer, ...]
ReadInputs = Callable[[], Inputs]
"""Decodes and checks the tensors of a request, in the order of the family's signature. Raises `BadRequest`.

Called once the request is admitted, so that a refused request costs no decoding.
"""

Decoded = tuple[Query, ReadInputs | InThreads[Inputs]]
"""The query, and how to read its tensors. Images are read in threads, before the request is admitted."""


def is_finite(inputs: Sequence[Buffer], specs: Sequence[TensorSpec]) -> bool:
    """Whether no input holds NaN or infinity."""
    floats = ((buffer, spec.dtype) for buffer, spec in zip(inputs, specs, strict=True) if spec.dtype.kind == "f")
    return all(bool(np.isfinite(np.frombuffer(buffer, dtype)).all()) for buffer, dtype in floats)
