"""The interface of an executor: it loads engines on one device, runs batches there, and says when the device is lost.

`Executor` is the protocol, `ExecutorBase` the book-keeping that all executors share. `CpuExecutor`, `GpuExecutor` and
`EmulatedExecutor` run batches in this process. `ProcessExecutor` has one of them in a child process, `RemoteExecutor`
in a process of another host. `AbsentExecutor` stands for a device that cannot be reached.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from proteus_cli.backends.base import OutputArrays, Part, Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.stages.stage_forecast import ExitBounds
from proteus_cli.errors import DeviceLost

if TYPE_CHECKING:
    import asyncio

from proteus_cli.errors import HostLost


class Batch(msgspec.Struct, frozen=True, eq=False):  # made in a tenth of a dataclass's time
    """A batch to run: an engine, and for each request its rows and its inputs, in the order of the signature.

    ``bounds`` say by when a multi-exit model must have answered the requests. When parts leave such a batch before its
    end, ``leaving`` gets their places and the result of their rows; the result of the batch contains these rows, too.
    ``others`` are active on the device as well, and cost the batch time, which emulated devices add.
    """

    key: VariantKey
    parts: Sequence[Part]
    rows: int
    bounds: ExitBounds | None = None
    others: frozenset[VariantKey] = frozenset()
    leaving: "LeavingCallback | None" = None


class BatchResult(msgspec.Struct, frozen=True, eq=False):
    """``outputs`` of all rows in the order of the parts, and the seconds that the engine computed.

    ``failures`` has the error of each part that failed by itself, by its place; its rows in ``outputs`` are undefined.
    ``elapsed_s`` is the time from submission to end by the clock of the device's own process; 0 where the device has
    none. For ``waited_s`` of it, batches of other servers ran on the device. ``notes`` are what a multi-exit model says
    of each row, in the order of `Signature.notes`; of other models there are none. ``ended_s``: when the batch ended,
    by the driver's clock; 0 where it is unknown. A batch for another machine counts as there when it was sent: the way
    there is part of the way back, as only both together can be measured.
    """

    outputs: OutputArrays
    compute_s: float
    failures: Mapping[int, Exception] = {}
    elapsed_s: float = 0.0
    waited_s: float = 0.0
    notes: OutputArrays = ()
    ended_s: float = 0.0

    @property
    def given(self) -> OutputArrays:
        """Outputs and notes, in the order of `Signature.given`."""
        return (*self.outputs, *self.notes)


BatchCallback = Callable[[BatchResult | Exception], object]
LeavingCallback = Callable[[Sequence[int], BatchResult], object]
"""Called with the places of some parts and the result of their rows alone, before the batch's own callback."""
OnLost = Callable[[DeviceLost], None]
"""Called once, on the running loop, when a device is lost; before any batch or load of it fails."""

OpenExecutor = Callable[[str, OnLost], "Executor"]
"""Opens the device of an id. Raises `DeviceUnavailable`."""

Awaited = TypeVar("Awaited")


class Executor(Protocol):
    """Loads engines on one device and runs batches on them. All methods belong to the loop's thread.

    A device is lost when nothing can run there any more: its process or thread has ended, or its CUDA context is
    broken. The executor then calls the `OnLost` that it was made with. If that does not `abandon` the executor, all
    pending batches and loads fail with `DeviceLost` next. Later calls raise `DeviceLost`.

    Once an executor is lost or abandoned, another may be made for its device.
    """

    runs_inline: bool
    """Whether `run` may be called."""

    can_give_way: bool
    """Whether `load` can give way to batches; known once the device is open."""

    @property
    def pid(self) -> int | None:
        """The id of the device's own process; None where it has none."""
        ...

    async def send_ahead(self, model: Path) -> None:
        """Wait until a model is where the device is, however long it is on its way: no load waits for that then.

        Raises `EngineError`, `DeviceLost` once lost.
        """
        ...

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int, *, gives_way: bool = False) -> Signature:
        """Load an engine beside the others, and warm it up with batches of up to ``warm_up_rows`` rows.

        A load that ``gives_way`` uses only the time that batches leave, and may take ten times as long; it is allowed
        where `can_give_way` is true. Raises `EngineError`, `DeviceLost` once lost.
        """
        ...

    def unload(self, key: VariantKey) -> None:
        """Free an engine after the batches that were submitted before. Does nothing once lost or abandoned."""
        ...

    def run(self, batch: Batch) -> BatchResult:
        """Run a batch on the calling thread, while no submitted batch runs; only where `runs_inline`.

        Raises `EngineError`.
        """
        ...

    def submit(self, batch: Batch, done: BatchCallback) -> None:
        """Run a batch elsewhere, and call ``done`` on the running loop, exactly once unless abandoned.

        ``batch.leaving`` is called on the same loop, and only before ``done``.

        Raises `RuntimeError` once closed, `DeviceLost` once lost or abandoned.
        """
        ...

    def close(self) -> None:
        """Wait for the batches that were submitted, then free everything. Does nothing once abandoned."""
        ...

    def abandon(self) -> None:
        """Give the device up at once, without waiting: it hangs, or is lost.

        No callback of a batch is called any more; loads raise `DeviceLost`. Nothing waits: a thread that hangs ends
        with this process, and a process of the device is killed.
        """
        ...


class ExecutorBase:
    """The pending batches and loads of an executor, and whether it is closed or lost."""

    runs_inline = can_give_way = False
    pid: int | None = None

    def __init__(self, device: str, on_lost: OnLost) -> None:
        self._device_id, self._on_lost = device, on_lost
        self._is_closed = False
        self._loss: DeviceLost | None = None
        self._numbers = count()
        self._pending: dict[int, BatchCallback] = {}
        self._loading: set[asyncio.Future[Any]] = set()

    async def send_ahead(self, model: Path) -> None:
        """The models of a device of this machine are there."""

    @property
    def is_lost(self) -> bool:
        """Whether the device is lost or abandoned."""
        return self._loss is not None

    def run(self, batch: Batch) -> BatchResult:
        raise RuntimeError(f"{self._device_id} runs no batch on the calling thread: {batch.key}")

    def _require_open(self) -> None:
        if self._loss is not None:
            raise type(self._loss)(self._loss.message, hint=self._loss.hint)
        if self._is_closed:
            raise RuntimeError(f"{self._device_id} is closed")

    def _register(self, done: BatchCallback) -> int:
        """Note a batch that was submitted; returns its number for `_complete`."""
        number = next(self._numbers)
        self._pending[number] = done
        return number

    def _complete(self, number: int, result: BatchResult | Exception) -> None:
        """Call the callback of a batch, unless the device was lost or abandoned meanwhile."""
        done = self._pending.pop(number, None)
        if done is not None:
            done(result)

    def _part_left(self, number: int, leaving: LeavingCallback, parts: Sequence[int], result: BatchResult) -> None:
        """Parts have left a batch: call ``leaving``, unless the device was lost or abandoned meanwhile."""
        if number in self._pending:
            leaving(parts, result)

    def _lose(self, loss: DeviceLost) -> None:
        """Call ``on_lost``, unless this executor was closed; then fail all pending batches and loads."""
        if self._loss is not None:
            return
        self._loss = loss
        if not self._is_closed:
            self._on_lost(loss)
        for number in list(self._pending):
            self._complete(number, loss)
        self._fail_loads(loss)

    def _forget_pending(self) -> None:
        """Fail all pending loads, and forget all pending batches: no callback is called any more."""
        self._loss = self._loss or DeviceLost(f"{self._device_id} was given up")
        self._pending.clear()
        self._fail_loads(self._loss)

    def _fail_loads(self, loss: DeviceLost) -> None:
        for loading in self._loading:
            settle(loading, type(loss)(loss.message, hint=loss.hint))

    async def _until_loaded(self, loading: "asyncio.Future[Awaited]") -> Awaited:
        """Wait for a load. Raises `DeviceLost` when the device is lost meanwhile."""
        self._loading.add(loading)
        try:
            return await loading
        finally:
            self._loading.discard(loading)


def settle(waiting: "asyncio.Future[Awaited]", result: "Awaited | Exception") -> bool:
    """Set the result or the exception of a future; returns False where it was done before."""
    if waiting.done():
        return False
    if isinstance(result, Exception):
        waiting.set_exception(result)
        waiting.exception()  # asyncio would complain of an exception that nobody waits for
    else:
        waiting.set_result(result)
    return True


class AbsentExecutor(ExecutorBase):
    """An `Executor` that is lost, without a call of any ``on_lost``."""

    def __init__(self, device: str, loss: HostLost) -> None:
        super().__init__(device, lambda _: None)
        self._loss = self._absence = loss

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int, *, gives_way: bool = False) -> Signature:  # noqa: ARG002
        raise self._raised()

    def unload(self, key: VariantKey) -> None: ...

    def submit(self, batch: Batch, done: BatchCallback) -> None:  # noqa: ARG002
        raise self._raised()

    def close(self) -> None: ...

    def abandon(self) -> None: ...

    def _raised(self) -> HostLost:
        """Another one each time, as each has a traceback."""
        return HostLost(self._absence.message, hint=self._absence.hint, why=self._absence.why)
