"""The phases of a worker, and what moves it from one to another."""

from enum import StrEnum


class WorkerPhase(StrEnum):
    """Whether a worker takes requests: only while it is serving."""

    SERVING = "serving"
    LOADING = "loading"
    LOST = "lost"


class WorkerEvent(StrEnum):
    """An event that moves a worker from one phase to another."""

    LOAD_STARTED = "load started"
    LOAD_ENDED = "load ended"  # also where it was given up
    DEVICE_LOST = "device lost"
    DEVICE_RECOVERED = "device recovered"


TRANSITIONS: dict[WorkerPhase, dict[WorkerEvent, WorkerPhase]] = {
    WorkerPhase.SERVING: {
        WorkerEvent.LOAD_STARTED: WorkerPhase.LOADING,
        WorkerEvent.DEVICE_LOST: WorkerPhase.LOST,
    },
    WorkerPhase.LOADING: {
        WorkerEvent.LOAD_ENDED: WorkerPhase.SERVING,
        WorkerEvent.DEVICE_LOST: WorkerPhase.LOST,
    },
    WorkerPhase.LOST: {
        WorkerEvent.DEVICE_LOST: WorkerPhase.LOST,
        WorkerEvent.DEVICE_RECOVERED: WorkerPhase.SERVING,
    },
}
