"""A backend that also runs multi-exit models, by the engines of another one."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from proteus_cli.backends.base import Backend, PowerMeter, Runner
from proteus_cli.backends.exits.runner import HostExitRunner
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.errors import EngineError
from proteus_cli.input_files import MODEL, sha256_of
from proteus_cli.store.models.exit_chains import is_chain_file, unpacked


class WithExits:
    """``backend``, and chain files besides. Their stages are loaded once, whatever number of chains have them."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.versions, self.max_slots = backend.versions, backend.max_slots
        self._stages: SharedEngines[Runner] = SharedEngines()

    @property
    def meter(self) -> PowerMeter | None:
        return self._backend.meter

    def prepare(self, model: Path, owner: VariantKey | None = None) -> float:
        return 0.0 if is_chain_file(model) else self._backend.prepare(model, owner)

    @contextmanager
    def runner(self, model: Path, owner: VariantKey | None = None) -> Iterator[Runner]:
        """Load a model. Raises `EngineError`, also where the stages of a chain do not fit together."""
        if not is_chain_file(model):
            with self._backend.runner(model, owner) as runner:
                yield runner
            return
        with ExitStack() as stack:
            with unpacked(model) as chain:
                stages = [stack.enter_context(self._loaded(stage)) for stage in chain.stages]
            with naming(name_of(model, owner)):
                runner = HostExitRunner(stages, chain.stop_when, chain.confidence)
            yield runner

    def _loaded(self, stage: Path) -> AbstractContextManager[Runner]:
        """The engine of a file, which may be removed once this is entered. Raises `EngineError`."""
        key = sha256_of(stage, MODEL, hint="it was unpacked just now").hex()
        return self._stages.loaded(key, partial(self._backend.runner, stage))


def name_of(model: Path, owner: VariantKey | None) -> str:
    """The name of a model in errors: its variant, or else its file."""
    return f"`{model}`" if owner is None else f"`{owner.variant}` of family `{owner.family}`"


@contextmanager
def naming(chain: str) -> Iterator[None]:
    """Have each `EngineError` begin with the name of a chain, for whoever only knows its stages."""
    try:
        yield
    except EngineError as error:
        raise EngineError(f"{chain}: {error.message}", hint=error.hint) from error


AnyEngine = TypeVar("AnyEngine")
Load = Callable[[], AbstractContextManager[AnyEngine]]


class SharedEngines(Generic[AnyEngine]):
    """Engines by the content of their files, each loaded while anybody has it. Any thread may load and leave.

    None waits while another loads, which may give way to batches: two that load one at once both do, and the one that
    is done later frees its own.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._loaded: dict[str, _Shared[AnyEngine]] = {}

    @contextmanager
    def loaded(self, key: str, load: Load[AnyEngine]) -> Iterator[AnyEngine]:
        """The engine of that content, loaded by ``load`` if no other model has it. Raises what that raises."""
        shared = self._take(key) or self._add(key, _Shared(load))
        try:
            yield shared.engine
        finally:
            self._leave(key, shared)

    def _take(self, key: str) -> "_Shared[AnyEngine] | None":
        with self._lock:
            shared = self._loaded.get(key)
            if shared is not None:
                shared.users += 1
        return shared

    def _add(self, key: str, made: "_Shared[AnyEngine]") -> "_Shared[AnyEngine]":
        """Share an engine that was made; another one where that has been added meanwhile."""
        with self._lock:
            shared = self._loaded.setdefault(key, made)
            shared.users += 1
        if shared is not made:
            made.close()
        return shared

    def _leave(self, key: str, shared: "_Shared[AnyEngine]") -> None:
        with self._lock:
            shared.users -= 1
            is_last = not shared.users
            if is_last:
                del self._loaded[key]
        if is_last:
            shared.close()


class _Shared(Generic[AnyEngine]):
    """An engine, and how many use it."""

    def __init__(self, load: Load[AnyEngine]) -> None:
        self.users = 0
        with ExitStack() as stack:
            self.engine = stack.enter_context(load())
            self.close = stack.pop_all().close
