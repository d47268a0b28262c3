"""How long the results of a device are on their way to the driver."""

from proteus_cli.control.devices.slowness import LIMITS
from proteus_cli.domain.stages.pace import FIRST_EXIT_MULTIPLE, MAX_MULTIPLE, MIN_MULTIPLE, WayTime, multiple_after


class AnswerWay:
    """Times from the end of a last stage to the driver: of copies, pipes, threads and a loop that has other work.

    They are measured as they are, since they depend on the machine and on what else it does. Those of another machine
    are beyond what was profiled of the network. The margin is as that of stages (`StagePace`): mean deviations of ways
    that were not interrupted, the more of them the more rows were late by their way alone.
    """

    def __init__(self) -> None:
        self._way, self._multiple, self._given_up = WayTime(), (MIN_MULTIPLE + MAX_MULTIPLE) / 2, 0

    @property
    def mean_s(self) -> float:
        """How long it takes in the mean; 0 where none is known."""
        return self._way.mean_s

    @property
    def within_s(self) -> float:
        """How long it takes at most, where it is not interrupted: what rows that go on leave for it."""
        return self._way.within_s(self._multiple)

    @property
    def mostly_s(self) -> float:
        """The same with the margin of first exits: what is not begun for its way is not in time either."""
        return self._way.within_s(FIRST_EXIT_MULTIPLE)

    def took(self, took_s: float, profiled_s: float = 0.0) -> bool:
        """One more result, beyond what was profiled of the way. False where it was interrupted."""
        self._given_up = 0
        return self._way.took(took_s, profiled_s)

    def went_on(self, rows: int, late: int, attainment: float) -> None:
        """So many rows have their answers; some that went on are late, and would not be by a usual way."""
        self._multiple = multiple_after(self._multiple, rows, late, attainment)

    def doubt(self) -> None:
        """A request was given up that is in time by the mean way. After `LIMITS.fresh` in a row, expect less."""
        self._given_up += 1
        if self._given_up > LIMITS.fresh:
            self._way.doubt()
