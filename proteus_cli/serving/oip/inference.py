"""One inference request between a protocol and the data plane, the same for REST, gRPC calls and gRPC streams::

    decode → admission → read_inputs → result → encode → answer
         └────────┴──────────┴─ error ───┴───────┴──→ fail

`decode` reads all but the tensors, so that a request which is not admitted costs little. What is wrong with the tensors
of such a request, nobody finds out: it is refused as one too many.

A long request is decoded in a turn of the event loop of its own, or in threads where its tensors are images. No worker
can run it before its tensors are read, so it is admitted after that; so that a refusal stays cheap, the controller is
asked before, too. Its deadline counts from its arrival.

A front end says by a subclass of `Inference` how its protocol reads a request and answers it; `InferencePipeline` does
the rest. Every request ends with one call of `answer` or `fail`, unless its client has gone. Refusals are counted,
sampled requests are traced, and a bug of ours, in decoding or encoding, is answered as an `InternalError`.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from proteus_cli.buffers import Buffer
from proteus_cli.errors import DeadlineExceeded, InternalError, NotReady, RequestError
from proteus_cli.serving.oip.codes import request_error
from proteus_cli.serving.oip.images import in_threads
from proteus_cli.serving.requests.admission import Admission
from proteus_cli.serving.requests.in_flight import Answered, InFlightRequest, Result
from proteus_cli.serving.requests.query import InOneTurn, InThreads, LongReadInputs, Query, ReadInputs, ResultT
from proteus_cli.serving.transport.turns import Turns

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import RequestTrace, Traces

NO_MEMORY = "too many large requests at once"
LATE_BEFORE_ADMISSION = "the deadline passed while the request was decoded"

log = logging.getLogger("proteus.inference")

Encoded = TypeVar("Encoded")
Decoded = tuple[Query, ReadInputs | LongReadInputs]
InFlight = InFlightRequest | asyncio.Task[None]
"""What is cancelled where the client goes."""


class Inference(ABC, Generic[Encoded]):
    """One request of a client. A subclass keeps what it needs to encode and send the answer."""

    __slots__ = ()  # so that a subclass may have another base with slots

    @abstractmethod
    def decode(self, content: Buffer) -> Decoded | InOneTurn[Decoded]:
        """What is asked, and how to read its tensors. Raises `RequestError`."""

    @abstractmethod
    def encode(self, answered: Answered) -> Encoded:
        """The answer, ready to be sent."""

    @abstractmethod
    def answer(self, encoded: Encoded) -> None:
        """Send the answer."""

    @abstractmethod
    def fail(self, error: RequestError) -> None:
        """Send an error in place of the answer."""

    @abstractmethod
    def reserve(self, size: int) -> bool:
        """Reserve memory until the answer is sent. False: there is not enough left."""

    @abstractmethod
    def turns(self) -> Turns:
        """The turns of all connections."""

    @abstractmethod
    def in_order(self) -> asyncio.Lock:
        """Held while a long request is read, so that each connection has one turn at a time, and others have theirs."""

    @abstractmethod
    def set_cancel_handle(self, in_flight: InFlight | None) -> None:
        """The long request is to be cancelled as this from now on; None: it has ended."""

    def is_traced(self, traceparent: bytes) -> None:
        """The request was taken in, and has a span of that name. Most protocols' answers do not say so."""

    def complete(self, result: Result) -> None:
        """Answer with the result from the data plane, which logs an exception that is raised here."""
        if isinstance(result, RequestError):
            self.fail(result)
            return
        try:
            encoded = self.encode(result)
        except Exception as error:
            told = request_error(error)
            self.fail(told)
            if isinstance(told, InternalError):
                raise
            return
        self.answer(encoded)


class InferencePipeline:
    """Takes the inference requests of one method of a protocol to the data plane; ``traces`` are of that method."""

    def __init__(self, admission: Admission, traces: "Traces | None" = None) -> None:
        self._admission, self._traces = admission, traces
        self._tasks: set[asyncio.Task[None]] = set()  # the loop holds only weak references

    def submit(self, inference: Inference[Encoded], content: Buffer, headers: Mapping[bytes, bytes]) -> InFlight | None:
        """Take a request in; None where it was refused, and has failed by now."""
        trace = None
        if self._traces is not None:
            trace = self._traces.begin(headers.get(b"traceparent"), headers.get(b"tracestate"))
        try:
            decoded = inference.decode(content)
            if isinstance(decoded, InOneTurn):
                return self._submit_later(inference, decoded, trace)
            query, read_inputs = decoded
            if isinstance(read_inputs, InOneTurn | InThreads):
                return self._submit_later(inference, decoded, trace)
            if trace is None:
                return self._admission.submit(query, read_inputs, inference.complete)
            return self._admit(inference, query, read_inputs, trace)
        except Exception as error:  # noqa: BLE001 - a bug is logged, and the client answered
            self._refuse(inference, error, trace)
            return None

    def cancel(self, in_flight: InFlight | None) -> None:
        """The client has gone: nobody waits for the answer. Harmless where the request has ended.

        A task that is cancelled keeps its frames, which hold the request. So that they are freed at once, and not by
        the next garbage collection, the caller forgets the task.
        """
        if isinstance(in_flight, asyncio.Task):
            in_flight.cancel()
        elif in_flight is not None:
            if self._traces is not None:
                self._traces.abandoned(in_flight)
            self._admission.cancel(in_flight)

    def _admit(
        self,
        inference: Inference[Encoded],
        query: Query,
        read_inputs: ReadInputs,
        trace: "RequestTrace | None",
        arrival_s: float | None = None,
    ) -> InFlightRequest:
        if trace is None:
            return self._admission.submit(query, read_inputs, inference.complete, arrival_s)
        trace.asks(query.family)
        done = trace.then(inference.complete, 0.0 if arrival_s is None else self._admission.now_s - arrival_s)
        in_flight = self._admission.submit(query, read_inputs, done, arrival_s, trace.cancelled)
        inference.is_traced(trace.traceparent)
        return in_flight

    def _submit_later(
        self, inference: Inference[Encoded], decoded: Decoded | InOneTurn[Decoded], trace: "RequestTrace | None"
    ) -> asyncio.Task[None]:
        long = _LongRequest(self._admission)
        task = asyncio.ensure_future(self._submit_long(inference, decoded, trace, long))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(self._taken_in, inference, trace, long))
        return task

    async def _submit_long(
        self,
        inference: Inference[Encoded],
        decoded: Decoded | InOneTurn[Decoded],
        trace: "RequestTrace | None",
        long: "_LongRequest",
    ) -> None:
        turns = inference.turns()
        try:
            if not isinstance(decoded, InOneTurn):
                long.asks(decoded[0])
            async with inference.in_order():
                query, read_inputs = await _in_one_turn(decoded, turns) if isinstance(decoded, InOneTurn) else decoded
                long.asks(query)
                if isinstance(read_inputs, InOneTurn | InThreads):
                    self._admission.probe(query, long.arrival_s)
                    if not inference.reserve(read_inputs.memory_bytes):
                        raise NotReady(NO_MEMORY)  # noqa: TRY301 - as all that it is refused for
                    if isinstance(read_inputs, InThreads):
                        inputs = await in_threads(read_inputs)
                    else:
                        inputs = await _in_one_turn(read_inputs, turns)
                    read_inputs = partial(tuple, inputs)
                inference.set_cancel_handle(self._admit(inference, query, read_inputs, trace, long.arrival_s))
        except Exception as error:  # noqa: BLE001 - a bug is logged, and the client answered
            inference.set_cancel_handle(None)
            self._refuse(inference, error, trace)

    def _taken_in(
        self,
        inference: Inference[Encoded],
        trace: "RequestTrace | None",
        long: "_LongRequest",
        task: asyncio.Task[None],
    ) -> None:
        """A long request is admitted or refused by now; or its client is gone, or its deadline has passed before."""
        long.ended()
        if not task.cancelled():
            return
        long.dropped(is_cancelled=not long.is_late)
        if long.is_late:
            inference.set_cancel_handle(None)
            self._refuse(inference, DeadlineExceeded(LATE_BEFORE_ADMISSION, is_late=False), trace)
        elif trace is not None:
            trace.cancelled()

    def _refuse(self, inference: Inference[Encoded], error: Exception, trace: "RequestTrace | None") -> None:
        told = request_error(error)
        if isinstance(told, InternalError):
            log.error("a bug while %s was taken in", type(inference).__name__, exc_info=error)
        elif not isinstance(told, DeadlineExceeded):  # which is an outcome
            self._admission.count_refusal(told)
        inference.fail(told)
        if trace is not None:
            trace.refused(error)


async def _in_one_turn(work: InOneTurn[ResultT], turns: Turns) -> ResultT:
    """The result of the work. Raises what it raises."""
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    turns.wait(partial(_begin, turn))
    await turn
    return work.work()


def _begin(turn: "asyncio.Future[None]") -> None:
    if not turn.cancelled():
        turn.set_result(None)


class _LongRequest:
    """A request whose tensors are read before it is admitted; until then nobody else keeps its deadline."""

    def __init__(self, admission: Admission) -> None:
        self._admission, self.arrival_s = admission, admission.now_s
        self.is_late = False
        self._query: Query | None = None
        self._timer: asyncio.TimerHandle | None = None

    def asks(self, query: Query) -> None:
        """It asks this: from now on the task that reads it, which calls this, is cancelled at the deadline."""
        self._query = query
        if self._timer is None:
            left_s = self._admission.deadline_s(query, self.arrival_s) - self._admission.now_s
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a coroutine runs in one
            self._timer = asyncio.get_running_loop().call_later(left_s, self._expire, task)

    def ended(self) -> None:
        """It is admitted, or has an answer."""
        if self._timer is not None:
            self._timer.cancel()

    def dropped(self, *, is_cancelled: bool) -> None:
        if self._query is not None:
            self._admission.dropped(self._query, self.arrival_s, is_cancelled=is_cancelled)

    def _expire(self, task: asyncio.Task[None]) -> None:
        self.is_late = True
        task.cancel()
