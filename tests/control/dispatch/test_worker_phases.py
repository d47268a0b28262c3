"""The phases of a worker: serving, loading, lost."""

import pytest

from proteus_cli.control.devices.worker_phase import TRANSITIONS, WorkerEvent, WorkerPhase
from proteus_cli.control.dispatch.workers import WorkerState

PATHS = {
    WorkerPhase.SERVING: (),
    WorkerPhase.LOADING: (WorkerEvent.LOAD_STARTED,),
    WorkerPhase.LOST: (WorkerEvent.DEVICE_LOST,),
}


@pytest.mark.parametrize("phase", WorkerPhase)
@pytest.mark.parametrize("event", WorkerEvent)
def test_a_worker_moves_along_the_table_and_nowhere_else(phase: WorkerPhase, event: WorkerEvent) -> None:
    worker = WorkerState("cpu0", 2)
    for each in PATHS[phase]:
        worker.on(each)
    assert worker.phase is phase
    if event in TRANSITIONS[phase]:
        worker.on(event)
        assert worker.phase is TRANSITIONS[phase][event]
    else:
        with pytest.raises(KeyError):
            worker.on(event)


def test_only_a_worker_that_serves_has_free_slots_and_none_is_lost_meanwhile() -> None:
    worker = WorkerState("cpu0", 2)
    worker.launched(0.1, 0.0)
    assert worker.free == 1
    worker.on(WorkerEvent.LOAD_STARTED)
    assert worker.free == 0
    worker.finished()
    assert worker.free == 0
    worker.on(WorkerEvent.LOAD_ENDED)
    assert worker.free == 2
