"""Traces with OpenTelemetry: a span for each sampled request, and one for its batch. Needs the extra ``otlp``.

A request that is not sampled costs almost nothing: sampling is decided here, before OpenTelemetry is called.
Source: W3C "Trace Context", OpenTelemetry's specification of OTLP and its semantic conventions.
"""

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from proteus_cli import __version__
from proteus_cli.domain.request import Outcome
from proteus_cli.errors import (
    BoundsUnmet,
    DeadlineExceeded,
    EngineFailed,
    NotAccurateEnough,
    NotReady,
    Overloaded,
    RequestError,
)
from proteus_cli.serving.requests.in_flight import Answered, AnsweredBatch, InFlightRequest, Observer, Result
from proteus_cli.urls import split_url

PATH = "/v1/traces"
EXPORT_S = 5.0  # the longest that sending may take, also at the end
_PARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_LENGTH, _NOT_SAMPLED = 55, b"-00"  # of most headers whose request is not sampled
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NO_PARENT = Context()
_NS_PER_S = 1e9


@contextmanager
def tracing_to(url: str, share: float) -> Iterator["Tracing"]:
    """Send spans to the collector at ``url`` (OTLP over HTTP), until the context is left; then the last ones.

    The fraction ``share`` of the requests that bring no sampling decision are sampled. Raises `UsageError`.
    """
    exporter = OTLPSpanExporter(endpoint=_endpoint(url), timeout=EXPORT_S)
    resource = Resource({"service.name": "proteus", "service.version": __version__})
    provider = TracerProvider(
        sampler=ALWAYS_ON, resource=resource.merge(OTELResourceDetector().detect()), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield Tracing(provider.get_tracer("proteus", __version__), share)
    finally:
        provider.shutdown()


def _endpoint(url: str) -> str:
    parts = split_url(url, of="collector", hint="like `--set otlp=http://127.0.0.1:4318`")
    return url if parts.path.endswith(PATH) else url.rstrip("/") + PATH


class Tracing:
    """Samples requests whose parent is sampled, and the fraction ``share`` of requests without a parent."""

    def __init__(self, tracer: Tracer, share: float, chance: Callable[[], float] = random.random) -> None:
        self.tracer, self.share, self.chance = tracer, share, chance

    def of_protocol(
        self, span: str, attributes: Mapping[str, str], *, code: str, ok: int, codes: Mapping[type, int]
    ) -> "Traces":
        """The traces of a front end: name and attributes of its ``span``, and its attribute for the answer, ``code``.

        ``code`` is ``ok``, or one of ``codes``, by error; a bug of ours has the code of `EngineFailed`.
        """
        return Traces(self, span, attributes, code, {Answered: ok, **codes})


class Traces:
    """The sampled requests of one protocol."""

    def __init__(
        self,
        tracing: Tracing,
        span: str,
        attributes: Mapping[str, str],
        code: str,
        codes: Mapping[type, int],
    ) -> None:
        self._tracing, self._span, self._attributes = tracing, span, attributes
        self._code, self._codes = code, codes

    def begin(self, traceparent: bytes | None, tracestate: bytes | None) -> "RequestTrace | None":
        """The trace of a request that arrives with these headers or metadata; None: it is not sampled."""
        if traceparent is not None and traceparent.endswith(_NOT_SAMPLED) and len(traceparent) == _LENGTH:
            return None
        parent = None if traceparent is None else _PARENT.fullmatch(traceparent)
        if parent is not None and _is_valid(parent):
            if not int(parent[4], 16) & TraceFlags.SAMPLED:
                return None
            return self._begin(_remote(parent, tracestate))
        if self._tracing.chance() >= self._tracing.share:
            return None
        return self._begin(_NO_PARENT)

    def outcome(self, result: Result | Exception) -> dict[str, str | int]:
        """The result of a request as attributes of its span."""
        if isinstance(result, Answered):
            return {self._code: self._codes[Answered], "proteus.outcome": Outcome.SERVED.value}
        kind = type(result) if isinstance(result, RequestError) else EngineFailed
        found: dict[str, str | int] = {self._code: self._codes[kind], "error.type": type(result).__name__}
        outcome = _outcome(result)
        return found if outcome is None else {**found, "proteus.outcome": outcome.value}

    def _begin(self, parent: Context) -> "RequestTrace":
        return RequestTrace(self, self._tracing.tracer, self._span, self._attributes, parent)


class RequestTrace(Observer):
    """The span of one request.

    ``traceparent`` is the header that names the span to others.
    """

    def __init__(
        self, traces: Traces, tracer: Tracer, name: str, attributes: Mapping[str, str], parent: Context
    ) -> None:
        self._traces, self._tracer = traces, tracer
        self._zero_ns = time.time_ns() - time.perf_counter_ns()
        self._span = tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=self._now_ns())
        self._admitted_ns = 0

    @property
    def traceparent(self) -> bytes:
        """The header's value, by W3C's Trace Context."""
        context = self._span.get_span_context()
        return b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags)

    def asks(self, family: str) -> None:
        """The request is for this family, and offered now."""
        self._admitted_ns = self._now_ns()
        self._span.set_attribute("proteus.family", family)

    def admitted(self, request: InFlightRequest) -> None:
        if request.decoding_s:
            self._child("decode", self._admitted_ns - round(request.decoding_s * _NS_PER_S), self._admitted_ns)

    def ended(self, result: Result | Exception) -> None:
        """Ends the span, also of a request that is not admitted."""
        if isinstance(result, Answered):
            self._answered(result)
        elif self._admitted_ns and isinstance(result, DeadlineExceeded) and not result.is_late:
            self._child("queue", self._admitted_ns, self._now_ns())
        self._span.set_attributes(self._traces.outcome(result))
        if _is_fault(result):
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(self._now_ns())

    def cancelled(self) -> None:
        """The client of the request is gone."""
        self._span.add_event("cancelled", timestamp=self._now_ns())
        self._span.set_attribute("proteus.outcome", Outcome.DROPPED.value)
        self._span.end(self._now_ns())

    def _answered(self, answer: Answered) -> None:
        batch = answer.batch
        started_ns = self._admitted_ns + round(answer.queue_s * _NS_PER_S)
        ended_ns = started_ns + round(batch.compute_s * _NS_PER_S)
        self._span.set_attributes({**_of_batch(batch), "proteus.rows": answer.rows})
        self._child("queue", self._admitted_ns, started_ns)
        self._child("compute", started_ns, ended_ns, self._batch(batch, started_ns, ended_ns))

    def _child(self, name: str, start_ns: int, end_ns: int, batch: SpanContext | None = None) -> None:
        within = set_span_in_context(self._span, _NO_PARENT)
        links = [] if batch is None else [Link(batch)]
        self._tracer.start_span(name, within, links=links, start_time=start_ns).end(end_ns)

    def _batch(self, batch: AnsweredBatch, start_ns: int, end_ns: int) -> SpanContext:
        """The span of the batch, a trace of its own, made by the first of its requests that is sampled."""
        found: SpanContext | None = batch.memo.get(RequestTrace)
        if found is None:
            attributes = {**_of_batch(batch), "proteus.family": batch.hosted.family}
            span = self._tracer.start_span("batch", _NO_PARENT, attributes=attributes, start_time=start_ns)
            span.end(end_ns)
            found = batch.memo[RequestTrace] = span.get_span_context()
        return found

    def _now_ns(self) -> int:
        return self._zero_ns + time.perf_counter_ns()


def _is_valid(parent: re.Match[bytes]) -> bool:
    version, trace_id, span_id, _, more = parent.groups()
    return (
        version != b"ff" and (version != b"00" or more is None) and bool(int(trace_id, 16)) and bool(int(span_id, 16))
    )


def _remote(parent: re.Match[bytes], tracestate: bytes | None) -> Context:
    state = TraceState.from_header([tracestate.decode("latin-1")]) if tracestate else None
    context = SpanContext(
        int(parent[2], 16), int(parent[3], 16), is_remote=True, trace_flags=_SAMPLED, trace_state=state
    )
    return set_span_in_context(NonRecordingSpan(context), _NO_PARENT)


def _of_batch(batch: AnsweredBatch) -> dict[str, Any]:
    hosted = batch.hosted
    return {
        "proteus.variant": hosted.variant,
        "proteus.accuracy": hosted.accuracy,
        "proteus.device": hosted.device,
        "proteus.batch_size": batch.rows,
        **({"proteus.emulated": True} if batch.is_emulated else {}),
    }


def _outcome(error: Exception) -> Outcome | None:
    match error:
        case DeadlineExceeded():
            return Outcome.LATE if error.is_late else Outcome.DROPPED
        case Overloaded() | NotAccurateEnough() | BoundsUnmet():
            return Outcome.REJECTED
        case EngineFailed():
            return Outcome.FAILED
        case _:  # it was not admitted
            return None


def _is_fault(result: Result | Exception) -> bool:
    """Whether the server is at fault: semantic conventions want such a span of a server marked as an error."""
    if isinstance(result, Answered):
        return False
    return not isinstance(result, RequestError) or isinstance(result, DeadlineExceeded | EngineFailed | NotReady)
