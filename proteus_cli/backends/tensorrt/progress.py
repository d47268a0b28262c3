"""How far a build is. TensorRT tells of phases that nest; each has a known number of steps."""

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


@dataclass(slots=True)
class BuildProgress:
    """Told by the builder's threads, asked by ours; also what tells the builder to stop.

    ``done_frac`` (0 to 1) never falls. A step of a phase counts as far as the phases within it are.
    """

    _running: dict[str, _Phase] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _done_frac: float = 0.0
    _now: str = "starting"
    is_cancelled: bool = False

    @property
    def now(self) -> str:
        """The phase that began last."""
        return self._now

    @property
    def done_frac(self) -> float:
        return self._done_frac

    def cancel(self) -> None:
        """The builder is to stop at its next step."""
        self.is_cancelled = True

    def begin(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._running[name] = _Phase(parent, steps)
            self._now = name

    def complete(self, name: str, step: int) -> bool:
        """A step, counted from 0, is done. Returns whether to go on."""
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
        self._done_frac = max(self._done_frac, self._frac_within(None))

    def _frac_within(self, parent: str | None) -> float:
        """How far the furthest phase of a parent is, 0 to 1."""
        fracs = (self._frac(name) for name, phase in self._running.items() if phase.parent == parent)
        return max(fracs, default=0.0)

    def _frac(self, name: str) -> float:
        phase = self._running[name]
        if phase.done >= phase.steps:
            return 1.0
        return (phase.done + self._frac_within(name)) / phase.steps
