"""One inference request between a protocol and the data plane, the same for REST, gRPC calls and gRPC streams::

    decode → admission → read_inputs → result → encode → answer
         └────────┴──────────┴─ error ───┴───────┴──→ fail

`decode` reads all but the tensors, so that a request which is not admitted costs little. What is wrong with the tensors
of such a request, nobody finds out: it is refused as one too many.

A front end says by a subclass of `Inference` how its protocol reads a request and answers it; `InferencePipeline` does
the rest. Every request ends with one call of `answer` or `fail`, unless its client has gone. Refusals are counted,
sampled requests are traced, and a bug of ours, in decoding or encoding, is answered as an `InternalError`.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from proteus_cli.domain.arrays import Buffer
from proteus_cli.errors import InternalError, RequestError
from proteus_cli.serving.oip.codes import request_error
from proteus_cli.serving.requests.admission import Admission
from proteus_cli.serving.requests.in_flight import Answered, InFlightRequest, Result
from proteus_cli.serving.requests.query import Query, ReadInputs

if TYPE_CHECKING:
    from proteus_cli.serving.telemetry.tracing import Traces

log = logging.getLogger("proteus.inference")

Encoded = TypeVar("Encoded")


class Inference(ABC, Generic[Encoded]):
    """One request of a client. A subclass keeps what it needs to encode and send the answer."""

    __slots__ = ()  # so that a subclass may have another base with slots

    @abstractmethod
    def decode(self, content: Buffer) -> tuple[Query, ReadInputs]:
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

    def submit(
        self, inference: Inference[Encoded], content: Buffer, headers: Mapping[bytes, bytes]
    ) -> InFlightRequest | None:
        """Take a request in; None where it was refused, and has failed by now."""
        trace = None
        if self._traces is not None:
            trace = self._traces.begin(headers.get(b"traceparent"), headers.get(b"tracestate"))
        try:
            query, read_inputs = inference.decode(content)
            if trace is None:
                return self._admission.submit(query, read_inputs, inference.complete)
            trace.asks(query.family)
            in_flight = self._admission.submit(query, read_inputs, trace.then(inference.complete))
        except Exception as error:  # noqa: BLE001 - a bug is logged, and the client answered
            inference.fail(self._refusal(inference, error))
            if trace is not None:
                trace.refused(error)
            return None
        inference.is_traced(trace.traceparent)
        return in_flight

    def cancel(self, in_flight: InFlightRequest | None) -> None:
        """The client has gone: nobody waits for the answer. Harmless where the request has ended."""
        if in_flight is not None:
            if self._traces is not None:
                self._traces.abandoned(in_flight)
            self._admission.cancel(in_flight)

    def _refusal(self, inference: Inference[Encoded], error: Exception) -> RequestError:
        told = request_error(error)
        if isinstance(told, InternalError):
            log.error("a bug while %s was taken in", type(inference).__name__, exc_info=error)
        else:
            self._admission.count_refusal(told)
        return told
