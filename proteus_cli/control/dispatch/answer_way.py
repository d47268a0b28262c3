"""The time of a device's results on their way to the driver."""

from proteus_cli.control.devices.slowness import LIMITS
from proteus_cli.domain.stages.pace import WayTime


class AnswerWay:
    """Times from the end of a last stage to the driver: copies, pipes, threads, and a loop with other work.

    They depend on the machine and its load, so they are measured. On another machine they count beyond the profile of
    the network. The margin is one mean deviation, as for stages (`StagePace`).
    """

    def __init__(self) -> None:
        self._way, self._given_up = WayTime(), 0

    @property
    def mean_s(self) -> float:
        """The mean time; 0 if unknown."""
        return self._way.mean_s

    @property
    def within_s(self) -> float:
        """The longest time that is expected. Interruptions are not covered."""
        return self._way.most_s

    def took(self, took_s: float, profiled_s: float = 0.0) -> None:
        """Learn from one result, beyond the profiled time of the way."""
        self._given_up = 0
        self._way.took(took_s, profiled_s)

    def doubt(self) -> None:
        """A request was given up that the mean time would allow. After `LIMITS.fresh` in a row, expect less."""
        self._given_up += 1
        if self._given_up > LIMITS.fresh:
            self._way.doubt()
