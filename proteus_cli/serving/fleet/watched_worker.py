"""The worker of a device of several slots: it tells a tuner of each batch."""

from typing import Any

from proteus_cli.control.decision import Launch
from proteus_cli.control.slot_tuner import SlotTuner
from proteus_cli.serving.devices.executor import BatchResult
from proteus_cli.serving.fleet.worker import Worker


class WatchedWorker(Worker):
    """A `Worker` whose batches a `SlotTuner` watches; other workers pay nothing for that."""

    def __init__(self, tuner: SlotTuner, *of_worker: Any) -> None:
        super().__init__(*of_worker)
        self._tuner = tuner
        self._exposures: dict[int, tuple[float, ...]] = {}  # what the tuner gave when running batches began

    def take_back(self) -> list[Launch]:
        self._exposures.clear()
        self._tuner.lost(self._clock())
        return super().take_back()

    def run(self, launch: Launch) -> None:
        self._exposures[id(launch)] = self._tuner.began(self._clock())
        super().run(launch)

    def _end(self, launch: Launch, started_s: float, result: BatchResult | Exception, ahead_s: float = 0.0) -> None:
        super()._end(launch, started_s, result, ahead_s)
        if id(launch) in self.running:  # it failed with its device, which is to be lost
            return
        exposure = self._exposures.pop(id(launch), None)
        if exposure is not None:  # else taken back
            is_whole = not isinstance(result, Exception) and not result.failures
            work_s = launch.hosted.mean_latency(launch.rows) if is_whole else None
            self._tuner.ended(exposure, work_s, self._ended_s)
