"""Requests in flight, from their submission to their end, and their results."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec
import numpy as np
import numpy.typing as npt

from proteus_cli.buffers import Buffer
from proteus_cli.control.decision import HostedVariant
from proteus_cli.domain.request import ANY_VERSION, Request
from proteus_cli.errors import RequestError

if TYPE_CHECKING:
    from proteus_cli.serving.devices.executor import BatchResult
    from proteus_cli.serving.requests.answers.second_stages import DeferredInFlight

_SMALL_BYTES = 16 * 1024


class Staged(msgspec.Struct, frozen=True):
    """How an answer of a cascade or a multi-exit model came about, and what ``accuracy`` is to be expected of it.

    ``stages``: how many stages of a cascade ran. ``exit``: of a multi-exit model, the highest exit of all rows; in a
    cascade, of the rows of its last stage. With bounds both may be None. ``confidence``: that of a
    cascade's first stage; with an exit or with `min_confidence`, that of the answer: the lowest of all rows. It is None
    where it is unknown. ``is_fallback``: the first stage was not sure of the answer, which is sent all the same.
    ``energy_j`` is in joules, and only of a request that limits it: what all stages took, the power of the profile ×
    the request's share of the batches' time. Of a multi-exit model that may cut the request short, it is by the
    profile's times.
    """

    stages: int | None
    confidence: float | None
    accuracy: float
    is_fallback: bool = False
    energy_j: float | None = None
    exit: int | None = None
    is_cut: bool = False


class AnsweredBatch:
    """A batch that ran: the variant and its device, the outputs of all rows, and the seconds that it took.

    Outputs and seconds are made up if it ``is_emulated``. In ``memo`` front ends keep what the answers of all its
    requests have in common, to make it once. A request that went by a cascade, or to a multi-exit model, has an object
    of its own. That says how the answer was ``staged``, and has the outputs of the request's rows; ``rows`` still
    counts the batch that ran. A request that asked for a ``version`` has one, too, with that name.
    """

    __slots__ = ("compute_s", "hosted", "is_emulated", "memo", "outputs", "rows", "staged", "version")

    def __init__(
        self,
        hosted: HostedVariant,
        rows: int,
        outputs: tuple[npt.NDArray[Any], ...],
        compute_s: float,
        *,
        is_emulated: bool = False,
        staged: Staged | None = None,
        version: str = ANY_VERSION,
    ) -> None:
        self.hosted, self.rows, self.outputs, self.compute_s = hosted, rows, outputs, compute_s
        self.is_emulated, self.staged, self.version = is_emulated, staged, version
        self.memo: dict[Any, Any] = {}

    def of_one(
        self, outputs: tuple[npt.NDArray[Any], ...], *, staged: Staged | None, version: str = ANY_VERSION
    ) -> "AnsweredBatch":
        """The batch of one request, with the outputs of its rows."""
        return AnsweredBatch(
            self.hosted, self.rows, outputs, self.compute_s,
            is_emulated=self.is_emulated, staged=staged, version=version,
        )  # fmt: skip

    @property
    def accuracy(self) -> float:
        """The accuracy to be expected of an answer."""
        return self.hosted.accuracy if self.staged is None else self.staged.accuracy

    def content(self, place: int) -> tuple[Buffer, int]:
        """The bytes of an output of all rows, and how many a row has. Small ones are copied, to be sliced cheaply."""
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
    """The result of a served request: ``rows`` of a batch from ``first`` on, ``queue_s`` after it was admitted."""

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


class Observer:
    """Watches one request from its admission to its end."""

    __slots__ = ()

    def admitted(self, request: "InFlightRequest") -> None:
        """The request is admitted, and its inputs are read."""

    def ended(self, result: Result | Exception) -> None:
        """The client has this result; any other exception is a bug of the front end that was to send it."""

    def cancelled(self) -> None:
        """The client is gone before its request has ended."""


class InFlightRequest(Request, frozen=False, gc=True, eq=False, kw_only=True):  # type: ignore[misc]  # msgspec lets a subclass be mutable
    """A request of a client. ``done`` is called with its result, once, unless the client is gone by then.

    ``observers`` are told how it ends, after ``done``. ``inputs`` are its tensors, once it is admitted. Decoding it
    took ``decoding_s`` from its arrival on; the time in the queue is without it. ``deferred`` has the rows that a
    second stage is asked about. The request has also ended when its deadline passes or its client goes, while it still
    waits or runs.
    """

    done: ResultCallback
    observers: tuple[Observer, ...] = ()
    inputs: tuple[Buffer, ...] = ()
    decoding_s: float = 0.0
    deferred: "DeferredInFlight | None" = None
    has_ended: bool = False
    is_running: bool = False

    @property
    def needs_batch(self) -> bool:
        """Whether its batch is still to answer it: it has not ended, nor waits for a second stage with an answer."""
        return not self.has_ended and self.deferred is None

    def end(self) -> ResultCallback:
        """End the request, and return what to call with its result."""
        done, self.done = self.done, nobody
        self.has_ended = True
        if self.is_running:  # else the request may still be launched, and needs its inputs
            self.inputs = ()
        if self.observers:
            observers, self.observers = self.observers, ()
            return partial(_send_and_tell, done, observers)
        return done

    def release_inputs(self) -> None:
        """Drop the reference to the inputs: no device will read them any more."""
        self.inputs = ()

    def wait_again(self) -> None:
        """The device that ran it is lost."""
        self.is_running = False


class BackgroundRequest(InFlightRequest, frozen=False, gc=True, eq=False, kw_only=True):  # type: ignore[misc]  # as its base
    """A request of no client: it has no outcome, and may be forgotten.

    It is alone in its batch. ``ran`` is called with the result, with the error of the variant, or with None where its
    device is lost.
    """

    is_background: ClassVar[bool] = True

    ran: "Callable[[BatchResult | Exception | None], None]"


def _send_and_tell(done: ResultCallback, observers: Sequence[Observer], result: Result) -> None:
    told: Result | Exception = result
    try:
        done(result)
    except Exception as error:
        told = error
        raise
    finally:
        for observer in observers:
            observer.ended(told)


def nobody(_ending: Result) -> None:
    """The client is gone, or has its result."""


def in_flight(requests: Sequence[Request]) -> Sequence[InFlightRequest]:
    """Requests as the controller names them: in the server, all of them are of clients."""
    return cast("Sequence[InFlightRequest]", requests)
