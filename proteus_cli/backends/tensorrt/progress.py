"""How far a build is: TensorRT reports nested phases, each with a known number of steps."""

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass(slots=True)
class BuildProgress:
    """The progress of one build, and whether it is cancelled. The builder's threads report to it, others read it.

    ``now`` is the phase that began last. ``done_frac`` (0 to 1) never falls; a step that has phases within it counts by
    how far these are.
    """

    _running: dict[str, _Phase] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    done_frac: float = 0.0
    now: str = "starting"
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Have the builder stop at its next step."""
        self.is_cancelled = True

    def begin(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._running[name] = _Phase(parent, steps)
            self.now = name

    def complete(self, name: str, step: int) -> bool:
        """Note that a step, counted from 0, is done; returns whether to go on."""
        with self._lock:
            if name in self._running:
                self._running[name].done = step + 1
            self._advance()
        return not self.is_cancelled

    def end(self, name: str) -> None:
        with self._lock:
            if name in self._running:
                self._running[name].done = self._running[name].steps
            self._advance()
            self._running.pop(name, None)

    def _advance(self) -> None:
        self.done_frac = max(self.done_frac, self._frac_within(None))

    def _frac_within(self, parent: str | None) -> float:
        """The fraction of the furthest phase within a parent, 0 to 1."""
        fracs = (self._frac(name) for name, phase in self._running.items() if phase.parent == parent)
        return max(fracs, default=0.0)

    def _frac(self, name: str) -> float:
        phase = self._running[name]
        if phase.done >= phase.steps:
            return 1.0
        return (phase.done + self._frac_within(name)) / phase.steps
