"""One inference request between a protocol and the data plane, the same for REST, gRPC calls and gRPC streams::

    decode → admission → read_inputs → result → encode → answer
         └────────┴──────────┴─ error ───┴───────┴──→ fail

`decode` reads all but the tensors, so that a request which is not admitted costs little. It is refused before its
tensors are checked.

A request that takes long to decode waits for a turn of the event loop of its own. Images are decoded in threads before
the request is admitted: no worker can run it earlier. The controller is asked before, too, so a refusal stays cheap. In
both cases the deadline counts from the arrival.

A front end says by a subclass of `Inference` how its protocol reads a request and answers it; `InferencePipeline` does
the rest. Every request ends with one call of `answer` or `fail`, unless its client has gone. Refusals are counted,
sampled requests are traced, and a bug of ours, in decoding or encoding, is answered as an `InternalError`.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from proteus_cli.buffers import Buffer
from proteus_cli.errors import DeadlineExceeded, InternalError, NotReady, RequestError
from proteus_cli.serving.oip.codes import request_error
from proteus_cli.serving.oip.images import in_threads
from proteus_cli.serving.requests.admission import Admission
from proteus_cli.serving.requests.in_flight import Answered, InFlightRequest, Result
from proteus_cli.serving.requests.query import Decoded, Inputs, InThreads, Query, ReadInputs
from proteus_cli.serving.transport.connections import Connections

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import RequestTrace, Traces

NO_MEMORY = "too many large requests at once"
LATE_BEFORE_ADMISSION = "the deadline passed while the request was decoded"

log = logging.getLogger("proteus.inference")

Encoded = TypeVar("Encoded")
CancelHandle = InFlightRequest | asyncio.Task[None]
"""Is cancelled where the client goes."""


class ClientConnection(Protocol):
    """The connection of a request. ``reads_long`` is held while a long request is read, so one is at a time."""

    connections: Connections
    reads_long: asyncio.Lock


class Inference(ABC, Generic[Encoded]):
    """One request of a client. A subclass keeps what it needs to encode and send the answer."""

    __slots__ = ()  # so that a subclass may have another base with slots

    @abstractmethod
    def needs_turn(self, content: Buffer) -> bool:
        """Whether the request takes long to decode, and so waits for a turn of the event loop of its own."""

    @abstractmethod
    def decode(self, content: Buffer) -> Decoded:
        """The query, and how to read its tensors. Raises `RequestError`."""

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
    def connection(self) -> ClientConnection:
        """The connection that the request came by."""

    @abstractmethod
    def set_cancel_handle(self, handle: CancelHandle | None) -> None:
        """The long request is to be cancelled by this from now on; None: it has ended."""

    def is_traced(self, traceparent: bytes) -> None:
        """The request was taken in, and has a span of that name. Most protocols' answers do not say so."""

    def require_memory(self, size: int) -> None:
        """Reserve memory until the answer is sent. Raises `NotReady` where there is not enough left."""
        if not self.reserve(size):
            raise NotReady(NO_MEMORY)

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

    def submit(
        self, inference: Inference[Encoded], content: Buffer, headers: Mapping[bytes, bytes]
    ) -> CancelHandle | None:
        """Take a request in; None where it was refused, and has failed by now."""
        trace = None
        if self._traces is not None:
            trace = self._traces.begin(headers.get(b"traceparent"), headers.get(b"tracestate"))
        try:
            if inference.needs_turn(content):
                return self._take_in_later(inference, content, None, trace)
            query, read_inputs = decoded = inference.decode(content)
            if isinstance(read_inputs, InThreads):
                return self._take_in_later(inference, content, decoded, trace)
            if trace is None:
                return self._admission.submit(query, read_inputs, inference.complete)
            return self._admit(inference, query, read_inputs, trace)
        except Exception as error:  # noqa: BLE001 - a bug is logged, and the client answered
            self._refuse(inference, error, trace)
            return None

    def cancel(self, handle: CancelHandle | None) -> None:
        """The client has gone before the answer. Harmless where the request has ended.

        A task that is cancelled keeps its frames, which hold the request. The caller forgets the task, which frees
        them at once and not by the next garbage collection.
        """
        if isinstance(handle, asyncio.Task):
            handle.cancel()
        elif handle is not None:
            self._admission.cancel(handle)

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
        in_flight = self._admission.submit(query, read_inputs, inference.complete, arrival_s, (trace,))
        inference.is_traced(trace.traceparent)
        return in_flight

    # --- long requests

    def _take_in_later(
        self, inference: Inference[Encoded], content: Buffer, decoded: Decoded | None, trace: "RequestTrace | None"
    ) -> asyncio.Task[None]:
        arrival_s = self._admission.now_s
        task = asyncio.ensure_future(self._take_in_long(inference, content, decoded, trace, arrival_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _take_in_long(
        self,
        inference: Inference[Encoded],
        content: Buffer,
        decoded: Decoded | None,
        trace: "RequestTrace | None",
        arrival_s: float,
    ) -> None:
        connection = inference.connection()
        try:
            async with connection.reads_long:
                if decoded is None:
                    async with connection.connections.long_turn:
                        await asyncio.sleep(0)
                        query, read_inputs = inference.decode(content)
                        self._require_time(query, arrival_s)
                        if not isinstance(read_inputs, InThreads):
                            inference.set_cancel_handle(self._admit(inference, query, read_inputs, trace, arrival_s))
                            return
                else:
                    query, read_inputs = decoded
                assert isinstance(read_inputs, InThreads)  # noqa: S101 - what is decoded before has images
                inputs = await self._read_images(inference, query, read_inputs, arrival_s)
                inference.set_cancel_handle(self._admit(inference, query, partial(tuple, inputs), trace, arrival_s))
        except asyncio.CancelledError:
            if trace is not None:
                trace.cancelled()
            raise
        except Exception as error:  # noqa: BLE001 - a bug is logged, and the client answered
            inference.set_cancel_handle(None)
            self._refuse(inference, error, trace)

    async def _read_images(
        self, inference: Inference[Encoded], query: Query, images: InThreads[Inputs], arrival_s: float
    ) -> Inputs:
        self._admission.probe(query, arrival_s)
        inference.require_memory(images.memory_bytes)
        try:
            async with asyncio.timeout(self._admission.deadline_s(query, arrival_s) - self._admission.now_s):
                return await in_threads(images)
        except TimeoutError:
            raise self._late(query, arrival_s) from None
        except asyncio.CancelledError:
            self._admission.dropped(query, arrival_s, is_cancelled=True)
            raise

    def _require_time(self, query: Query, arrival_s: float) -> None:
        """Raise `DeadlineExceeded` where the deadline of a request has passed."""
        if self._admission.deadline_s(query, arrival_s) <= self._admission.now_s:
            raise self._late(query, arrival_s)

    def _late(self, query: Query, arrival_s: float) -> DeadlineExceeded:
        self._admission.dropped(query, arrival_s, is_cancelled=False)
        return DeadlineExceeded(LATE_BEFORE_ADMISSION, is_late=False)

    def _refuse(self, inference: Inference[Encoded], error: Exception, trace: "RequestTrace | None") -> None:
        told = request_error(error)
        if isinstance(told, InternalError):
            log.error("a bug while %s was taken in", type(inference).__name__, exc_info=error)
        elif not isinstance(told, DeadlineExceeded):  # which is an outcome
            self._admission.count_refusal(told)
        inference.fail(told)
        if trace is not None:
            trace.ended(error)
