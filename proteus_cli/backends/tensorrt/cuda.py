"""The primary context of a CUDA device: the process keeps it, and threads make it current only while they use it."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from proteus_cli.backends.tensorrt.bindings import cuda
from proteus_cli.errors import DeviceLost, DeviceUnavailable, EngineError, OutOfDeviceMemory

_retained: "dict[int, PrimaryContext]" = {}
_retaining = threading.Lock()


def primary_context(ordinal: int) -> "PrimaryContext":
    """The context of a device, always the same. Raises `BackendUnavailable`, `DeviceUnavailable`."""
    with _retaining:
        if ordinal not in _retained:
            _retained[ordinal] = PrimaryContext(ordinal, _retain(ordinal))
        return _retained[ordinal]


def _retain(ordinal: int) -> "cuda.Context":
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
    """The owner of all CUDA objects on a device, TensorRT's included. Any thread may use it, within `current`.

    All use is within `current`, as pycuda ends the process when a thread ends with a context pushed, and leaks what is
    freed while its context is not current. A context that works is never released: pycuda's `detach` takes it for
    popped, and the driver does not pop a primary context then.
    """

    def __init__(self, ordinal: int, context: "cuda.Context") -> None:
        self.ordinal = ordinal
        self._context = context
        self._why_lost: str | None = None
        self._is_held = True
        self._releasing = threading.Lock()

    @property
    def is_lost(self) -> bool:
        """Whether an error has made the context unusable for good."""
        return self._why_lost is not None

    @property
    def loss(self) -> DeviceLost | None:
        """Why the context is lost; None where it is not."""
        if self._why_lost is None:
            return None
        return DeviceLost(
            f"gpu{self.ordinal} is lost: {self._why_lost}",
            hint="only a new process can use it again; `dmesg` and `nvidia-smi -q` may say why",
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the context current on this thread, until left. Errors of pycuda are raised as errors of ours.

        Raises `OutOfDeviceMemory`; `DeviceLost`, from then on always, after an error from which a context does not
        recover; `EngineError` on all other errors.
        """
        self.require_alive()
        self._push()
        try:
            yield
        except cuda.Error as error:
            self._check_alive()
            self.require_alive(error)
            raise _ours(error) from error
        except EngineError as error:  # TensorRT has no error codes: the reason may be a lost context
            self._check_alive()
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
        """Device memory: free, and in all. Only within `current`."""
        free_bytes, total_bytes = cuda.mem_get_info()
        return int(free_bytes), int(total_bytes)

    def _check_alive(self) -> None:
        """Note a loss: after an error from which a context does not recover, synchronising fails as well."""
        try:
            cuda.Context.synchronize()
        except cuda.Error as error:
            self._note_lost(error)

    def _push(self) -> None:
        try:
            self._context.push()
        except cuda.Error as error:
            self._note_lost(error)
            self._release()
            self.require_alive(error)

    def _pop(self) -> None:
        try:
            cuda.Context.pop()
        except cuda.Error as error:
            self._note_lost(error)
        if self.is_lost:
            self._release()

    def _note_lost(self, error: "cuda.Error") -> None:
        self._why_lost = self._why_lost or str(error)

    def _release(self) -> None:
        """Have pycuda drop the context from this thread, even where it cannot be popped.

        pycuda takes a detached context for dead: `get_current` drops it without freeing its memory.
        """
        with self._releasing:
            if self._is_held:
                self._is_held = False
                self._context.detach()
        cuda.Context.get_current()


def _ours(error: "cuda.Error") -> EngineError:
    if isinstance(error, cuda.MemoryError):
        return OutOfDeviceMemory(
            f"The device has no memory left: {error}",
            hint="host fewer or smaller variants on it, or have it use fewer slots",
        )
    return EngineError(f"the CUDA driver refused: {error}")
