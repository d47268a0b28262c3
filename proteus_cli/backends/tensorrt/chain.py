"""A multi-exit model that is loaded on a GPU."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from time import monotonic

from proteus_cli.backends.base import NamedArrays, OutputArrays, Part
from proteus_cli.backends.exits.loading import SharedEngines, naming
from proteus_cli.backends.exits.runner import ExitRunner, Leave
from proteus_cli.backends.tensorrt.chain_slots import ChainSlot, ChainTensors
from proteus_cli.backends.tensorrt.cuda import PrimaryContext
from proteus_cli.backends.tensorrt.engine import SlottedEngines, part_of, tensors_of, warm_up_parts
from proteus_cli.backends.tensorrt.slots import EngineTensors
from proteus_cli.domain.conditions import Condition
from proteus_cli.domain.stages.pace import StagePace
from proteus_cli.domain.stages.stage_forecast import ExitBounds


@dataclass(frozen=True, slots=True)
class ChainPlans:
    """The serialized engines of a multi-exit model's stages, when queries stop, what their confidence is, and its name.

    The ``name`` is what errors call it.
    """

    stages: tuple[bytes, ...]
    stop_when: Condition
    confidence: str
    name: str

    @property
    def key(self) -> str:
        """That of all models with the same stages."""
        return "+".join(hashlib.sha256(stage).hexdigest() for stage in self.stages)


class LoadedStages(SlottedEngines[ChainSlot]):
    """The engines of all stages. A slot has what a batch needs in each of them."""

    layout: ChainTensors

    def _lay_out(self) -> int:
        self.layout = ChainTensors.of([tensors_of(engine) for engine in self._engines])
        self.tensors = self.layout.whole
        return self.layout.buffer_bytes

    def _make_slot(self) -> ChainSlot:
        return ChainSlot(self._engines, self.layout)


class SharedStagePace(StagePace):
    """A pace that several threads learn at once: to learn is to read and to write, and no thread comes in between.

    Where batches run one after another, a `StagePace` is enough, which needs no lock.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()

    def ran(self, took_s: float, mean_s: float) -> None:
        with self._lock:
            super().ran(took_s, mean_s)

    def came_out(self, took_s: float) -> None:
        with self._lock:
            super().came_out(took_s)

    def parted(self, took_s: float) -> None:
        with self._lock:
            super().parted(took_s)


class LoadedChain(ExitRunner):
    """A multi-exit model whose stages are loaded. It is also a `SlottedRunner`.

    To ``close`` it frees the stages, unless other models have them.
    """

    def __init__(self, stages: LoadedStages, plans: ChainPlans, context: PrimaryContext) -> None:
        """Raises `EngineError` where the stages do not fit together."""
        with naming(plans.name):
            super().__init__(stages.layout.signatures, plans.stop_when, plans.confidence)
        self._stages, self._context = stages, context
        if stages.slots > 1:  # for each, a thread waits
            self._pace = SharedStagePace()
        self.close: Callable[[], None] = stages.close

    @property
    def tensors(self) -> EngineTensors:
        return self._stages.tensors

    @property
    def memory_bytes(self) -> int:
        return self._stages.memory_bytes

    @property
    def slots(self) -> int:
        """The number of batches that may be on the device at once."""
        return self._stages.slots

    @property
    def slot_bytes(self) -> int:
        return self._stages.slot_bytes

    def add_slot(self) -> None:
        """Add a slot. Raises `OutOfDeviceMemory`; then there are as many as before."""
        self._stages.add_slot()

    def compute_s(self, inputs: NamedArrays) -> float:
        """Run one batch; returns the seconds that the device computed, without copies. Raises like `infer`."""
        with self._begun(inputs) as slot:
            self.answers(slot, len(next(iter(inputs.values()))))
            return slot.compute_s()

    @contextmanager
    def slot(self) -> "Iterator[ExitSlot]":
        """A slot for one batch, once one is free, until left."""
        with self._stages.slot() as slot:
            yield ExitSlot(self, slot)

    def take(self) -> "ExitSlot":
        """A slot for one batch, once one is free; the caller gives it back once the batch is done."""
        return ExitSlot(self, self._stages.take())

    def give_back(self, slot: "ExitSlot") -> None:
        self._stages.give_back(slot.stages)

    @contextmanager
    def _begun(self, inputs: NamedArrays) -> Iterator[ChainSlot]:
        part = part_of(inputs, self.signature)
        with self._stages.slot() as slot, self._context.current():
            slot.submit([part])
            yield slot


class ExitSlot:
    """A slot of the stages while it is in use for one model, with a condition of its own."""

    def __init__(self, chain: LoadedChain, stages: ChainSlot) -> None:
        self._chain, self.stages = chain, stages
        self._rows, self._start_s = 0, 0.0

    def submit(self, parts: Sequence[Part]) -> None:
        """Start a batch; returns before its first stage is done. Raises like `ChainSlot.submit`."""
        self._rows, self._start_s = sum(rows for rows, _ in parts), monotonic()
        self.stages.submit(parts)

    def wait(self, bounds: ExitBounds | None = None, leave: Leave | None = None) -> OutputArrays:
        """Run the batch to its end, on this thread: `ExitRunner.infer` says what with. Raises like that."""
        answers = self._chain.answers(self.stages, self._rows, self._start_s, bounds, monotonic, leave)
        return tuple(answers.values())


class LoadedChains:
    """The multi-exit models on one device. Those of the same stages share these, which are loaded and warmed up once.

    ``slots`` is the number of batches that may be on the device at once.
    """

    def __init__(self, context: PrimaryContext, slots: int) -> None:
        self._context, self._slots = context, slots
        self._stages: SharedEngines[LoadedStages] = SharedEngines()

    def load(self, plans: ChainPlans) -> LoadedChain:
        """Load a model beside the others; it must be closed. Raises like `LoadedEngine`."""
        with ExitStack() as stack:
            stages = stack.enter_context(self._stages.loaded(plans.key, partial(self._opened, plans)))
            chain = LoadedChain(stages, plans, self._context)
            chain.close = stack.pop_all().close
        return chain

    @contextmanager
    def _opened(self, plans: ChainPlans) -> Iterator[LoadedStages]:
        """Stages that are warmed up, on slots that no batch has yet."""
        with closing(LoadedStages(plans.stages, self._context, slots=self._slots)) as stages:
            LoadedChain(stages, plans, self._context)  # raises where they do not fit together: none of them runs then
            parts = warm_up_parts(stages.tensors.signature, stages.tensors.max_rows)
            for _ in range(self._slots):  # the next is always another
                with stages.slot() as slot, self._context.current():
                    for part in parts:
                        _pass_all(slot, part, len(plans.stages))
            yield stages


def _pass_all(slot: ChainSlot, part: Part, stages: int) -> None:
    """Run a batch through all stages. Raises `EngineError`."""
    slot.submit([part])
    slot.outputs()
    for _ in range(1, stages):
        slot.go_on(None)
        slot.outputs()
