"""A GPU without one: a context, and engines that compute in Python. Each doubles its inputs, a number a row."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np

from proteus_cli.arrays import Bools
from proteus_cli.backends.base import NamedArrays, OutputArrays, Part, Signature, TensorSpec
from proteus_cli.backends.tensorrt.chain_slots import ChainTensors
from proteus_cli.backends.tensorrt.slots import EngineTensors
from proteus_cli.errors import DeviceLost, EngineError

FLOAT = np.dtype(np.float32)
SIGNATURE = Signature((TensorSpec("x", FLOAT, (1,)),), (TensorSpec("y", FLOAT, (1,)),))
MAX_ROWS = 8
POISON, LETHAL = 99.0, 666.0  # a part with the first fails, one with the second loses the context
WITHIN_S = 10.0


class FakeContext:
    ordinal = 0
    loss: DeviceLost | None = None

    @contextmanager
    def current(self) -> Iterator[None]:
        if self.loss is not None:
            raise self.loss
        yield


class FakeSlot:
    """Doubles its inputs in `wait`, once it may go on."""

    def __init__(self, context: FakeContext) -> None:
        self.context, self.goes_on, self.parts = context, threading.Event(), list[Part]()
        self.goes_on.set()
        self.is_broken = False

    def submit(self, parts: Sequence[Part]) -> None:
        assert not self.parts, "a slot has one batch at a time"
        self.parts = list(parts)

    def wait(self) -> OutputArrays:
        assert self.goes_on.wait(WITHIN_S)
        parts, self.parts = self.parts, []
        values = np.frombuffer(b"".join(bytes(inputs[0]) for _, inputs in parts), FLOAT)
        if LETHAL in values:
            self.context.loss = DeviceLost("gpu0 is lost: a test")
            raise self.context.loss
        if self.is_broken or POISON in values:
            raise EngineError("a test")
        return ((values * 2).reshape(-1, 1),)


class FakeEngine:
    signature = SIGNATURE

    def __init__(self, plan: bytes, context: Any, *, slots: int) -> None:
        self.is_closed = False
        self.tensors = EngineTensors(SIGNATURE, MAX_ROWS)
        self.all_slots = [FakeSlot(context) for _ in range(slots)]
        self._free: SimpleQueue[FakeSlot] = SimpleQueue()
        for slot in self.all_slots:
            self._free.put(slot)

    def take(self) -> FakeSlot:
        return self._free.get()

    def give_back(self, slot: FakeSlot) -> None:
        self._free.put(slot)

    @contextmanager
    def slot(self) -> Iterator[FakeSlot]:
        slot = self.take()
        yield slot
        self.give_back(slot)

    def close(self) -> None:
        for _ in self.all_slots:
            self._free.get()
        self.is_closed = True


# --- a multi-exit model of three stages: each adds 10 to what it takes, and gives that as answer and feature

EXITS = 3
X, F = (TensorSpec(name, FLOAT, (1,)) for name in ("x", "f"))
STAGES = (
    Signature((X,), (*SIGNATURE.outputs, F)),
    Signature((F,), (*SIGNATURE.outputs, F)),
    Signature((F,), SIGNATURE.outputs),
)


class FakeChainSlot:
    """Computes a stage when its outputs are asked for, once it may go on."""

    def __init__(self, context: FakeContext) -> None:
        self.context, self.goes_on = context, threading.Event()
        self.goes_on.set()
        self.place, self.features = 0, np.zeros((0, 1), FLOAT)
        self.ran: list[tuple[int, int]] = []  # stages, and rows

    def submit(self, parts: Sequence[Part]) -> None:
        values = np.frombuffer(b"".join(bytes(inputs[0]) for _, inputs in parts), FLOAT)
        if POISON in values:
            raise EngineError("a test")
        self.place, self.features = 1, values.reshape(-1, 1)

    def outputs(self) -> NamedArrays:
        assert self.goes_on.wait(WITHIN_S)
        if self.place > 1 and LETHAL in self.features:
            self.context.loss = DeviceLost("gpu0 is lost: a test")
            raise self.context.loss
        self.ran.append((self.place, len(self.features)))
        return {"y": self.features + 10 * self.place}

    def go_on(self, chosen: Bools | None) -> None:
        self.place, self.features = self.place + 1, self.features if chosen is None else self.features[chosen]


class FakeStages:
    """In place of `LoadedStages`."""

    memory_bytes = slot_bytes = 0

    def __init__(self, plans: Sequence[bytes], context: Any, *, slots: int) -> None:
        assert len(plans) == EXITS
        self.is_closed, self.slots = False, slots
        self.layout = ChainTensors(STAGES, MAX_ROWS)
        self.tensors = self.layout.whole
        self.all_slots = [FakeChainSlot(context) for _ in range(slots)]
        self._free: SimpleQueue[FakeChainSlot] = SimpleQueue()
        for slot in self.all_slots:
            self._free.put(slot)

    def take(self) -> FakeChainSlot:
        return self._free.get()

    def give_back(self, slot: FakeChainSlot) -> None:
        self._free.put(slot)

    @contextmanager
    def slot(self) -> Iterator[FakeChainSlot]:
        slot = self.take()
        yield slot
        self.give_back(slot)

    def close(self) -> None:
        self.is_closed = True
