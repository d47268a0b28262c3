"""Objects that TensorRT calls while it builds, from threads of its own: a logger and a progress monitor.

They never raise, as an exception cannot pass through TensorRT. The classes are made in functions, as their bases are
TensorRT's, which is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proteus_cli.backends.tensorrt.bindings import trt

if TYPE_CHECKING:
    from proteus_cli.backends.tensorrt.progress import BuildProgress


def error_logger(errors: list[str]) -> trt.ILogger:
    """A logger that appends the messages of errors to a list, and drops all others."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # a base without stubs
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in {trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR}:
                errors.append(msg)

    return Logger()


def progress_monitor(progress: BuildProgress) -> trt.IProgressMonitor:
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
