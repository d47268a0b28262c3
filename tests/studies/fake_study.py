"""A kind of study whose cells are numbers that are known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proteus_cli.domain.base import Value
from proteus_cli.errors import EngineError, ProteusError
from proteus_cli.studies.frame import Job, JobTurn, StudyDraft
from proteus_cli.studies.study import Cell, Scalar


class Square(Value, frozen=True):
    """A number and its square."""

    number: int
    square: int
    digits: tuple[int, ...] = ()


class Sum(Value, frozen=True):
    """What all squares are together."""

    total: int


@dataclass
class Squares:
    """Drafts of a study of squares. ``asked`` are the numbers that were measured, in order."""

    asked: list[int] = field(default_factory=list)
    allowed_s: list[float] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)
    fails_as: type[ProteusError] = EngineError
    interrupted_at: int | None = None

    def draft(self, *numbers: int, power: int = 2, wanted_s: float = 1.0, min_s: float = 0.0) -> StudyDraft:
        """A study of these numbers."""
        options: dict[str, Scalar] = {"power": power}
        jobs = [Job(f"of {n}", "measured", wanted_s, self._measuring(n, power), min_s) for n in numbers]
        return StudyDraft("squares", "squares", {"of": "numbers"}, options, {"n": "1"}, jobs, conclude=_sum)

    def _measuring(self, number: int, power: int) -> Callable[[JobTurn], Square]:
        def measure(turn: JobTurn) -> Square:
            if number == self.interrupted_at:
                raise KeyboardInterrupt
            if number in self.broken:
                raise self.fails_as(f"{number} does not run")
            self.asked.append(number)
            self.allowed_s.append(turn.allowed_s)
            turn.advance("squaring", 0.5)
            return Square(number, number**power, (number,))

        return measure


def _sum(cells: Mapping[str, Cell]) -> Sum:
    return Sum(sum(cell.read(Square).square for cell in cells.values()))
