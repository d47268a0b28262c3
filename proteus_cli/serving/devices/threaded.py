"""The base of executors that use a device from threads of this process."""

import asyncio
import logging
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from proteus_cli.backends.affinity import CAN_GIVE_WAY, give_way, pin_this_thread
from proteus_cli.backends.base import Signature
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import DeviceLost
from proteus_cli.serving.devices.executor import ExecutorBase, OnLost, settle
from proteus_cli.serving.logs import fields

ThreadJob = Callable[[], None]

log = logging.getLogger("proteus.executor")


class ThreadEngine(Protocol):
    """An engine that is loaded in this process."""

    @property
    def signature(self) -> Signature:
        """The signature of the model that is loaded."""
        ...

    def close(self) -> None:
        """Free the engine."""
        ...


AnyEngine = TypeVar("AnyEngine", bound=ThreadEngine)


class ThreadedExecutor(ExecutorBase, Generic[AnyEngine]):
    """One thread that runs batches in their order, and one that loads and frees engines beside them.

    Engines are loaded and freed in the order of the calls, each once all batches that were submitted before have
    started. The device is lost when any of its threads ends by an exception. All threads run on ``cores``. Where
    ``loads_give_way`` and the system has priorities of threads, a third one does the loads that are to, each once all
    engines are freed that were to be freed before. Such engines have no threads of their own, which would give way for
    good.
    """

    def __init__(
        self, device: str, on_lost: OnLost, cores: Sequence[int] = (), *, loads_give_way: bool = False
    ) -> None:
        super().__init__(device, on_lost)
        self._cores = cores
        self._engines: dict[VariantKey, AnyEngine] = {}
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[ThreadJob | None] = SimpleQueue()
        self._loads: SimpleQueue[ThreadJob | None] = SimpleQueue()
        self._giving_way: SimpleQueue[ThreadJob | None] = SimpleQueue()
        self.can_give_way = loads_give_way and CAN_GIVE_WAY
        self._threads: list[threading.Thread] = []
        self._start_thread("run", self._do_jobs)
        self._start_thread("load", self._do_loads)
        if self.can_give_way:
            self._start_thread("give-way", self._do_giving_way)

    async def load(self, key: VariantKey, model: Path, warm_up_rows: int, *, gives_way: bool = False) -> Signature:
        self._require_open()
        loaded: asyncio.Future[AnyEngine] = self._loop.create_future()

        def load_engine() -> None:
            if loaded.done():  # nobody waits for it any more
                return
            try:
                result: AnyEngine | Exception = self._load_if_open(key, model, warm_up_rows)
            except Exception as error:  # noqa: BLE001 - the caller of `load` gets it
                result = error
            if loaded.done() and not isinstance(result, Exception):
                result.close()
            else:
                self._on_loop(self._settle_or_free, loaded, result)

        is_giving_way = gives_way and self.can_give_way
        self._after_batches(partial(self._giving_way.put, load_engine) if is_giving_way else load_engine)
        engine = self._engines[key] = await self._wait_for_engine(loaded)
        return engine.signature

    def unload(self, key: VariantKey) -> None:
        if not self.is_lost:
            self._after_batches(self._engines.pop(key).close)

    def close(self) -> None:
        if not self._is_closed:
            self._end_threads()
            for thread in self._threads:
                thread.join()

    def abandon(self) -> None:
        self._forget_pending()
        if not self._is_closed:
            self._end_threads()

    def _end_threads(self) -> None:
        """Have the threads end after all that they have to do, the last of it to free the engines."""
        self._is_closed = True
        for engine in self._engines.values():
            self._after_batches(engine.close)
        self._engines.clear()
        self._jobs.put(None)

    def _after_batches(self, job: ThreadJob) -> None:
        """Have the loading thread do a job once the running thread has started all batches that are submitted now."""
        self._jobs.put(partial(self._loads.put, job))

    async def _wait_for_engine(self, loading: "asyncio.Future[AnyEngine]") -> AnyEngine:
        """Wait for an engine. It is closed where the load is cancelled, or the device lost, just as it comes."""
        try:
            engine = await self._until_loaded(loading)
        except asyncio.CancelledError:
            if loading.done() and not loading.cancelled() and loading.exception() is None:
                self._free(loading.result())
            raise
        if self.is_lost:
            self._free(engine)
            self._require_open()
        return engine

    def _settle_or_free(self, loaded: "asyncio.Future[AnyEngine]", result: AnyEngine | Exception) -> None:
        """Hand an engine to the caller of `load`; free it where that has gone."""
        if not settle(loaded, result) and not isinstance(result, Exception):
            self._free(result)

    def _free(self, engine: AnyEngine) -> None:
        """Free an engine that nobody gets: as all others, so that the loop need not wait, while there are threads."""
        if self.is_lost or self._is_closed:
            engine.close()
        else:
            self._after_batches(engine.close)

    # --- on the threads

    def _start_thread(self, role: str, work: ThreadJob) -> None:
        name = f"{self._device_id}-{role}"
        thread = threading.Thread(target=self._until_done, args=(work,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _until_done(self, work: ThreadJob) -> None:
        pin_this_thread(self._cores)
        try:
            work()
        except BaseException as error:  # whatever ends a thread
            name = threading.current_thread().name
            log.exception("the thread %s has ended", name, extra=fields(device=self._device_id))
            loss = DeviceLost(f"{self._device_id} is lost: its thread {name} has ended ({error!r})")
            self._on_loop(self._lose, loss)

    def _do_jobs(self) -> None:
        try:
            _do_all(self._jobs)
        finally:
            self._end_other_threads()

    def _end_other_threads(self) -> None:
        self._loads.put(None)

    def _do_loads(self) -> None:
        try:
            _do_all(self._loads)
        finally:
            self._giving_way.put(None)

    def _do_giving_way(self) -> None:
        try:
            give_way()
        except OSError as error:  # a sandbox may forbid it
            self.can_give_way = False
            log.warning("loads on %s have full speed: %s", self._device_id, error, extra=fields(device=self._device_id))
        _do_all(self._giving_way)

    def _load_if_open(self, key: VariantKey, model: Path, warm_up_rows: int) -> AnyEngine:
        self._require_open()
        engine = self._load(key, model, warm_up_rows)
        if self.is_lost or self._is_closed:
            engine.close()
            self._require_open()
        return engine

    @abstractmethod
    def _load(self, key: VariantKey, model: Path, warm_up_rows: int) -> AnyEngine:
        """Load an engine and warm it up, on one of the threads that load. Raises `EngineError`."""

    def _on_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        """Have the loop make a call. A thread that was left behind may outlive the loop."""
        if not (self.is_lost and self._loop.is_closed()):
            self._loop.call_soon_threadsafe(call, *arguments)


def _do_all(jobs: "SimpleQueue[ThreadJob | None]") -> None:
    while (job := jobs.get()) is not None:
        job()
