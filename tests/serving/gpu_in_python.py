"""A GPU without one: a context, and engines that compute in Python. Each doubles its inputs, a number a row."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np

from proteus_cli.backends.base import OutputArrays, Part, Signature, TensorSpec
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
