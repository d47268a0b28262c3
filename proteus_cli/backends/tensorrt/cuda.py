"""The primary context of a CUDA device: kept by the process, current on a thread only while something is done in it."""

from __future__ import annotations

import ctypes
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from proteus_cli.backends.tensorrt.bindings import cuda
from proteus_cli.errors import DeviceLost, DeviceUnavailable, EngineError, OutOfDeviceMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

_retained: dict[int, PrimaryContext] = {}
_retaining = threading.Lock()


def primary_context(ordinal: int) -> PrimaryContext:
    """The context of a device, the same for all who ask. Raises `BackendUnavailable`, `DeviceUnavailable`."""
    with _retaining:
        if ordinal not in _retained:
            _retained[ordinal] = PrimaryContext(ordinal, _retain(ordinal))
        return _retained[ordinal]


def _retain(ordinal: int) -> cuda.Context:
    try:
        cuda.init()
        context: cuda.Context = cuda.Device(ordinal).retain_primary_context()
    except cuda.Error as error:
        raise DeviceUnavailable(
            f"The CUDA driver can't open gpu{ordinal}: {error}",
            hint="`nvidia-smi` lists the devices; `CUDA_VISIBLE_DEVICES` hides some",
        ) from error
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))  # as the interpreter ends, pycuda would detach it
    return context


class PrimaryContext:
    """What all CUDA objects on a device belong to, TensorRT's as well. Any thread may use it, within `current`.

    pycuda ends the process when a thread ends with a context pushed, and leaks what is freed where its context is not
    current; so nothing is done but within `current`. A context that works is never given back: pycuda's `detach` takes
    it for popped, which the driver does not do with a primary one.
    """

    def __init__(self, ordinal: int, context: cuda.Context) -> None:
        self.ordinal = ordinal
        self._context = context
        self._why_lost: str | None = None
        self._is_held = True
        self._letting_go = threading.Lock()

    @property
    def is_lost(self) -> bool:
        return self._why_lost is not None

    @property
    def loss(self) -> DeviceLost | None:
        """Why nothing can be done here any more, where that is so."""
        if self._why_lost is None:
            return None
        return DeviceLost(
            f"gpu{self.ordinal} is lost: {self._why_lost}",
            hint="only a new process can use it again; `dmesg` and `nvidia-smi -q` may say why",
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make it this thread's context, and surely undo that. Errors of pycuda come out as ours.

        Raises `OutOfDeviceMemory`; `DeviceLost`, now and ever after, on an error from which a context does not
        recover; `EngineError` on all others.
        """
        self.require_alive()
        self._push()
        try:
            yield
        except cuda.Error as error:
            self._look_whether_it_lives()
            self.require_alive(error)
            raise _ours(error) from error
        except EngineError as error:  # TensorRT tells no codes: it may have failed for the same reason
            self._look_whether_it_lives()
            self.require_alive(error)
            raise
        finally:
            self._pop()

    def require_alive(self, cause: Exception | None = None) -> None:
        """Raises `DeviceLost` once the context is lost."""
        loss = self.loss
        if loss is not None:
            raise loss from cause

    def memory_bytes(self) -> tuple[int, int]:
        """Free, and in all. Only within `current`."""
        free_bytes, total_bytes = cuda.mem_get_info()
        return int(free_bytes), int(total_bytes)

    def _look_whether_it_lives(self) -> None:
        """After an error from which a context does not recover, waiting for it fails as well."""
        try:
            cuda.Context.synchronize()
        except cuda.Error as error:
            self._note_lost(error)

    def _push(self) -> None:
        try:
            self._context.push()
        except cuda.Error as error:
            self._note_lost(error)
            self._let_go()
            self.require_alive(error)

    def _pop(self) -> None:
        try:
            cuda.Context.pop()
        except cuda.Error as error:
            self._note_lost(error)
        if self.is_lost:
            self._let_go()

    def _note_lost(self, error: cuda.Error) -> None:
        self._why_lost = self._why_lost or str(error)

    def _let_go(self) -> None:
        """Have pycuda forget the context on this thread, even where it can't be popped.

        Detached, it is dead to pycuda: looking for the current one drops it, and what belongs to it isn't freed.
        """
        with self._letting_go:
            if self._is_held:
                self._is_held = False
                self._context.detach()
        cuda.Context.get_current()


def _ours(error: cuda.Error) -> EngineError:
    if isinstance(error, cuda.MemoryError):
        return OutOfDeviceMemory(
            f"The device has no memory left: {error}",
            hint="host fewer or smaller variants on it, or have it use fewer slots",
        )
    return EngineError(f"the CUDA driver refused: {error}")
