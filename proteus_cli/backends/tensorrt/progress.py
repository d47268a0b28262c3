"""What TensorRT says while it builds: errors, and nested phases, each with a known number of steps.

TensorRT calls the logger and the monitor from threads of its own. They never raise, as an exception cannot pass through
TensorRT. Their classes are made in functions, as their bases are TensorRT's, which is imported on first use.
"""

import threading
from dataclasses import dataclass, field

from proteus_cli.backends.tensorrt.bindings import trt


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
        """TensorRT begins a phase with a number of steps, within the phase ``parent`` if there is one."""
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
        """TensorRT has ended a phase, whatever steps were left of it."""
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


def error_logger(errors: list[str]) -> "trt.ILogger":
    """A logger that appends the messages of errors to a list, and drops all others."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # a base without stubs
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: "trt.ILogger.Severity", msg: str) -> None:
            if severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}:
                errors.append(msg)

    return Logger()


def progress_monitor(progress: BuildProgress) -> "trt.IProgressMonitor":
    """A monitor that reports the phases of a build to ``progress``, and tells the builder whether to go on."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a base without stubs
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.begin(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.complete(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.end(phase_name)

    return Monitor()
