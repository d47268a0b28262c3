"""A backend and a clock that the tests of sweeps wind themselves."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiny import CLASSES, INPUTS

from proteus_cli.backends.base import NamedArrays, Runner, Signature, TensorSpec
from proteus_cli.domain.catalog import VariantKey
from proteus_cli.domain.profile import BackendInfo
from proteus_cli.errors import EngineError
from proteus_cli.profiling import cells, closed_loop, estimate, sweep
from proteus_cli.profiling.noise import Waiting

Scores = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""Of rows of inputs."""


class Clock:
    """Stands still but for the runs. ``waiting_fracs``: of the next blocks that are observed; then there is none."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waiting_fracs: list[float] = []

    def perf_counter(self) -> float:
        return self.now_s

    @contextmanager
    def observing(self, _cores: Sequence[int]) -> Iterator[Waiting]:
        yield Waiting(self.waiting_fracs.pop(0) if self.waiting_fracs else 0.0)


class FakeRunner:
    """Takes ``row_s`` of the clock for each row."""

    signature = Signature(
        (TensorSpec("x", np.dtype(np.float32), (INPUTS,)),), (TensorSpec("scores", np.dtype(np.float32), (CLASSES,)),)
    )
    memory_bytes = 1000

    def __init__(self, backend: "FakeBackend", model: Path) -> None:
        self._backend, self._model = backend, model

    def infer(self, inputs: NamedArrays) -> NamedArrays:
        rows = len(inputs["x"])
        self._backend.runs.append((self._model.stem, rows))
        if (self._model.stem, rows) == self._backend.fails_at:
            raise EngineError("the model failed")
        self._backend.clock.now_s += self._backend.row_s.get(self._model.stem, 0.001) * rows
        scores = self._backend.scores.get(self._model.stem)
        return {"scores": np.zeros((rows, CLASSES), np.float32) if scores is None else scores(inputs["x"])}


class FakeBackend:
    """``runs`` are (variant, rows) in order; ``fails_at`` is such a pair. Variants without ``scores`` give zeros."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.versions = BackendInfo("fake", {"fake": "1"})
        self.max_slots = 1
        self.meter: Any = None
        self.row_s: dict[str, float] = {}
        self.scores: dict[str, Scores] = {}
        self.build_s = self.load_s = 0.0
        self.runs: list[tuple[str, int]] = []
        self.fails_at: tuple[str, int] | None = None

    def prepare(self, model: Path, owner: VariantKey | None = None) -> float:
        return self.build_s

    @contextmanager
    def runner(self, model: Path, owner: VariantKey | None = None) -> Iterator[Runner]:
        self.clock.now_s += self.load_s
        yield FakeRunner(self, model)


def fake_time(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> Clock:
    """A clock for all modules that measure, and for ``modules``."""
    clock = Clock()
    for module in (cells, closed_loop, estimate, sweep, *modules):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(cells, "observing", clock.observing)
    return clock
