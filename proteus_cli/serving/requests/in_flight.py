"""What the door keeps of a request while it is inside, and how that ends."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from proteus_cli.control.decision import Hosted
from proteus_cli.domain.buffer import Buffer
from proteus_cli.domain.request import Request
from proteus_cli.errors import RequestError

_SMALL_BYTES = 16 * 1024


class AnsweredBatch:
    """A batch that ran: who answered, the outputs of all rows, and what it took (seconds).

    Where it ``is_emulated``, both are made up.
    ``memo`` is for what its answers have in common, so that a front end makes it once.
    """

    __slots__ = ("compute_s", "hosted", "is_emulated", "memo", "outputs", "rows")

    def __init__(
        self,
        hosted: Hosted,
        rows: int,
        outputs: tuple[npt.NDArray[Any], ...],
        compute_s: float,
        *,
        is_emulated: bool = False,
    ) -> None:
        self.hosted, self.rows, self.outputs, self.compute_s = hosted, rows, outputs, compute_s
        self.is_emulated = is_emulated
        self.memo: dict[Any, Any] = {}

    def content(self, place: int) -> tuple[Buffer, int]:
        """The bytes of an output, of all rows, and how many a row has. Those of a small one may be cut for less."""
        key = ("content", place)
        try:
            found: tuple[Buffer, int] = self.memo[key]
        except KeyError:
            values = np.ascontiguousarray(self.outputs[place])
            flat = values.reshape(-1).view(np.uint8)
            content = flat.tobytes() if flat.nbytes <= _SMALL_BYTES else flat.data
            found = self.memo[key] = content, values.nbytes // len(values)
        return found


class Answered(msgspec.Struct, frozen=True, eq=False):
    """One request's rows of a batch: ``rows`` from ``first`` on; it waited ``queue_s`` before that ran."""

    batch: AnsweredBatch
    first: int
    rows: int
    queue_s: float

    @property
    def outputs(self) -> tuple[npt.NDArray[Any], ...]:
        """This request's rows of each output, in the order of the signature."""
        return tuple(values[self.first : self.first + self.rows] for values in self.batch.outputs)


Result = Answered | RequestError
ResultCallback = Callable[[Result], None]


class InFlightRequest(msgspec.Struct, eq=False):
    """A request that is inside. ``done`` is told its ending, once, unless the client is gone by then.

    Its deadline may pass, or its client vanish, while it still waits or runs: it has ended then all the same.
    """

    inputs: tuple[Buffer, ...]
    done: ResultCallback
    deadline_s: float
    request: Request | None = None
    has_ended: bool = False
    is_running: bool = False
    runs: int = 0

    def end(self) -> ResultCallback:
        """It has ended, and whom to tell. Lets go of the request, which the garbage collector doesn't see."""
        done, self.done = self.done, _nobody
        self.has_ended, self.request = True, None
        if self.is_running:  # the batch has what it needs; else it may still be launched, and answered to nobody
            self.inputs = ()
        return done

    def run(self) -> tuple[Buffer, ...]:
        """It runs from now on: its inputs."""
        self.is_running = True
        self.runs += 1
        return self.inputs

    def wait_again(self) -> None:
        """What ran it is lost."""
        self.is_running = False


def _nobody(_ending: Result) -> None:
    """The client is gone, or has been told already."""
