"""What happens to an inference request is the same over REST, as a gRPC call, and as one of a gRPC stream."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from builders import requests_waiting
from one_device import World
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from protocol_clients import Protocol, RestClient, by_each_protocol, scene, served

from proteus_cli.domain.request import Outcome
from proteus_cli.errors import DeadlineExceeded, EngineError, Overloaded
from proteus_cli.serving.grpc.codec import GrpcCodec
from proteus_cli.serving.http1.exchange import NO_HEAD
from proteus_cli.serving.oip.codes import HTTP_STATUS
from proteus_cli.serving.requests.in_flight import InFlightRequest, nobody
from proteus_cli.serving.rest.codec.codec import RestCodec
from proteus_cli.serving.telemetry.tracing import Tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT: dict[str, Any] = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@by_each_protocol
def test_a_request_is_answered(protocol: Protocol) -> None:
    async def play(world: World) -> None:
        client = protocol(world)
        client.ask(1, 2)
        assert client.answer() is None
        await served(world)
        assert client.answer() == "ok"
        assert world.plane.counts.refusals.total() == 0

    scene(play)


def test_a_request_over_rest_keeps_neither_its_head_nor_its_json_while_it_waits() -> None:
    """They would be memory that a client takes and nobody counts."""

    async def play(world: World) -> None:
        client = RestClient(world)
        client.ask(1, 2, x="y" * 1000)
        exchange = client.exchange
        assert client.answer() is None
        assert (exchange.head, exchange.body) == (NO_HEAD, b"")
        await served(world)
        assert client.answer() == "ok"

    scene(play)


@by_each_protocol
def test_an_error_while_the_answer_is_encoded_ends_the_request(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def play(world: World) -> None:
        client = protocol(world)
        client.ask(1, 2)
        await served(world)
        assert client.answer() == "internal error"
        monkeypatch.undo()
        again = protocol(world)
        again.ask(1, 2)
        await served(world)
        assert again.answer() == "ok"

    for codec in (RestCodec, GrpcCodec):
        monkeypatch.setattr(codec, "encode", broken)
    scene(play)
    assert "ZeroDivisionError" in caplog.text


@by_each_protocol
def test_a_bug_while_a_request_is_taken_in_is_answered_and_logged(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def play(world: World) -> None:
        client = protocol(world)
        client.ask(1, 2)
        assert client.answer() == "internal error"
        assert world.plane.counts.refusals.total() == 0

    for codec in (RestCodec, GrpcCodec):
        monkeypatch.setattr(codec, "decode", broken)
    scene(play)
    assert "ZeroDivisionError" in caplog.text


def test_a_bug_before_a_request_over_rest_is_decoded_is_answered_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def play(world: World) -> None:
        client = RestClient(world)
        client.ask(1, 2)
        assert client.answer() == "internal error"

    monkeypatch.setattr("proteus_cli.serving.rest.handler.InferRoute", broken)
    scene(play)
    assert "ZeroDivisionError" in caplog.text


@by_each_protocol
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ((), "BadRequest", "input `x` must have shape"),  # found by the codec
        ((1, 2) * 9, "BadRequest", "`f` takes at most 8 rows"),  # found by the data plane
    ],
)
def test_a_refusal_is_answered_and_counted(
    protocol: Protocol, values: tuple[float, ...], error: str, message: str
) -> None:
    async def play(world: World) -> None:
        client = protocol(world)
        client.ask(*values)
        assert (client.answer() or "").startswith(message)
        assert world.plane.counts.refusals == {error: 1}

    scene(play)


@by_each_protocol
def test_the_load_decides_before_the_values_do(protocol: Protocol) -> None:
    """Three values are no row of two: that is found out once there is room for the row, and takes no room."""

    async def play(world: World) -> None:
        client = protocol(world)
        client.ask(1, 2, 3)
        assert (client.answer() or "").startswith("input `x` has ")
        assert requests_waiting(world.plane.controller) == 0
        with contextlib.suppress(Overloaded):
            while True:
                world.submit(1, 2)
        client.ask(1, 2, 3)
        assert (client.answer() or "").startswith("more queries for `f` than the plan can carry")
        assert world.plane.counts.refusals == {"BadRequest": 1, "Overloaded": 1}
        assert world.counted == {Outcome.REJECTED: 2}
        for in_flight in world.submitted:
            world.plane.admission.cancel(in_flight)

    scene(play)


@by_each_protocol
def test_a_failure_of_the_model_is_answered_and_is_no_refusal(protocol: Protocol) -> None:
    async def play(world: World) -> None:
        client = protocol(world)
        client.ask(1, 2)
        await served(world, EngineError("broken"))
        assert client.answer() == "the model failed on this request"
        assert world.plane.counts.refusals.total() == 0

    scene(play)


@by_each_protocol
def test_a_request_whose_client_goes_is_cancelled(protocol: Protocol) -> None:
    async def play(world: World) -> None:
        client = protocol(world)
        client.ask(1, 2)
        assert world.plane.results.in_flight_count == 1
        client.leave()
        assert (world.plane.results.in_flight_count, world.plane.counts.by_family["f"].cancelled) == (0, 1)
        assert client.answer() is None

    scene(play)


# --- traces


@contextmanager
def tracing() -> Iterator[tuple[Tracing, InMemorySpanExporter]]:
    """Only what clients ask for is sampled."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Tracing(provider.get_tracer("test"), 0.0), exporter
    provider.shutdown()


def spans_of(exporter: InMemorySpanExporter) -> dict[str, Any]:
    spans = exporter.get_finished_spans()
    assert {span.context.trace_id for span in spans if span.name != "batch"} <= {int(TRACE, 16)}
    return {span.name: span for span in spans}


@by_each_protocol
def test_a_sampled_request_is_a_span_of_its_clients_trace(protocol: Protocol) -> None:
    async def play(world: World) -> None:
        with tracing() as (traces, exporter):
            client = protocol(world, traces)
            client.ask(1, 2, **PARENT)
            await served(world)
            assert client.answer() == "ok"
            spans = spans_of(exporter)
            assert set(spans) == {protocol.span, "queue", "compute", "batch"}
            attributes = dict(spans[protocol.span].attributes)
            assert (attributes["proteus.family"], attributes["proteus.outcome"]) == ("f", "served")
            client.ask(1, 2)
            await served(world)
            assert len(exporter.get_finished_spans()) == 4

    scene(play)


@by_each_protocol
def test_what_went_wrong_is_in_the_span(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def play(world: World) -> None:
        with tracing() as (traces, exporter):
            client = protocol(world, traces)
            client.ask(**PARENT)
            assert spans_of(exporter)[protocol.span].attributes["error.type"] == "BadRequest"
            exporter.clear()
            for codec in (RestCodec, GrpcCodec):
                monkeypatch.setattr(codec, "encode", broken)
            client.ask(1, 2, **PARENT)
            await served(world)
            span = spans_of(exporter)[protocol.span]
            assert (client.answer(), span.attributes["error.type"]) == ("internal error", "ZeroDivisionError")
            assert not span.status.is_ok

    scene(play)


@by_each_protocol
def test_the_span_says_that_the_client_went(protocol: Protocol) -> None:
    async def play(world: World) -> None:
        with tracing() as (traces, exporter):
            client = protocol(world, traces)
            client.ask(1, 2, **PARENT)
            client.leave()
            span = spans_of(exporter)[protocol.span]
            assert [event.name for event in span.events] == ["cancelled"]
            assert span.attributes["proteus.outcome"] == "dropped"

    scene(play)


def test_the_queue_of_a_request_that_was_read_in_turns_begins_when_it_is_decoded() -> None:
    with tracing() as (traces, exporter):
        trace = traces.of_protocol("P", {}, code="c", ok=200, codes=HTTP_STATUS).begin(
            PARENT["traceparent"].encode(), None
        )
        assert trace is not None
        before_ns = trace._now_ns()
        trace.asks("f")
        trace.admitted(InFlightRequest(0, "f", 0.0, 1.0, done=nobody, decoding_s=2.0))
        trace.ended(DeadlineExceeded("late", is_late=False))
        spans = spans_of(exporter)
    decode, queue = spans["decode"], spans["queue"]
    assert decode.end_time - decode.start_time == 2e9
    assert before_ns <= decode.end_time == queue.start_time
