"""Traces of a running server, as a collector gets them."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from collector import Collector, collecting, named
from command_line import proteus
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tiny import TONES, TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.live

ROOMY = TinyFamily("shapes", (TinyVariant("shapes-s", 0.70, hidden=4, first_s=0.004, row_s=0.001),), slo="60s")
X: dict[str, Any] = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}
GOOD = {"inputs": [X]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NS_PER_S = 1e9


def parent(number: int, flags: str = "01") -> dict[str, str]:
    """Headers of a client that traces; each ``number`` is a trace of its own."""
    return {"traceparent": f"00-{TRACE[:-4]}{number:04x}-{PARENT}-{flags}", "tracestate": "vendor=value"}


def trace_id(number: int) -> bytes:
    return bytes.fromhex(f"{TRACE[:-4]}{number:04x}")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@contextmanager
def traced(root: Path, collector: Collector, *options: str, sample: str = "0") -> Iterator[LiveServer]:
    """Nobody hosts `tones`."""
    made = make_workspace(root, (ROOMY, TONES))
    add_profiles(made)
    plan = add_plan(made, {"cpu0": "shapes-s"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        sampled = ("--grpc-port", "0", f"--set=otlp={collector.url}", f"--set=otlp-sample={sample}")
        with serving(made.root, plan, "--replan=off", *sampled, *options) as live:
            yield live
            assert live.stop() == 0
            assert "Traceback" not in live.log.read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[LiveServer]:
    """Only what clients ask for is sampled."""
    with traced(tmp_path_factory.mktemp("traced"), collector) as live:
        yield live


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[LiveServer]:
    """The same, but requests wait until their batch is full, of 8 rows."""
    with traced(tmp_path_factory.mktemp("patient"), collector, "--set=batching=proactive") as live:
        yield live


def spans_of(collector: Collector, number: int) -> dict[str, Span]:
    """The spans of a trace by name, once that of the request is there."""
    wanted = trace_id(number)
    spans = collector.until(lambda spans: any(s.trace_id == wanted and s.kind == Span.SPAN_KIND_SERVER for s in spans))
    return {span.name: span for span in spans if span.trace_id == wanted}


def test_a_request_is_a_span_of_its_clients_trace_with_what_answered_it(
    server: LiveServer, collector: Collector
) -> None:
    before_ns = time.time_ns()
    reply = server.infer("shapes", GOOD, parent(1))
    assert reply.status == 200
    spans = spans_of(collector, 1)
    after_ns = time.time_ns()  # not sooner, as a client may have read its answer before the server notes the time
    assert set(spans) == {"POST /v2/models/{model}/infer", "queue", "compute"}
    request, queue, compute = (spans[name] for name in ("POST /v2/models/{model}/infer", "queue", "compute"))
    assert request.parent_span_id == bytes.fromhex(PARENT)
    assert request.trace_state == "vendor=value"
    assert reply.headers["traceparent"] == f"00-{request.trace_id.hex()}-{request.span_id.hex()}-01"
    assert named(request.attributes) == {
        "http.request.method": "POST", "http.route": "/v2/models/{model}/infer", "http.response.status_code": 200,
        "proteus.family": "shapes", "proteus.variant": "shapes-s", "proteus.accuracy": 0.7, "proteus.device": "cpu0",
        "proteus.batch_size": 1, "proteus.rows": 1, "proteus.outcome": "served",
    }  # fmt: skip
    assert request.status.code == Status.STATUS_CODE_UNSET

    assert {queue.parent_span_id, compute.parent_span_id} == {request.span_id}
    parts = (request, queue, compute)
    starts, ends = [part.start_time_unix_nano for part in parts], [part.end_time_unix_nano for part in parts]
    assert before_ns <= starts[0] <= starts[1] <= ends[1] == starts[2] <= ends[2] <= ends[0] <= after_ns
    parameters = reply.document()["parameters"]
    assert ends[2] - starts[2] == pytest.approx(parameters["compute_us"] * 1000, abs=1000)
    assert {resource["service.name"] for resource in collector.resources} == {"proteus"}
    assert collector.paths == {"/v1/traces"}


def test_a_call_over_grpc_is_traced_the_same(server: LiveServer, collector: Collector) -> None:
    with grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        x = grpcclient.InferInput("x", [1, 4], "FP32")
        x.set_data_from_numpy(np.ones((1, 4), np.float32))
        client.infer("shapes", [x], headers=parent(50))
        with pytest.raises(InferenceServerException, match="INVALID_ARGUMENT"):
            client.infer("shapes", [], headers=parent(51))
        client.infer("shapes", [x], headers=parent(52, "00"))
    name = "inference.GRPCInferenceService/ModelInfer"
    spans = spans_of(collector, 50)
    assert set(spans) == {name, "queue", "compute"}
    assert spans[name].parent_span_id == bytes.fromhex(PARENT)
    answered, refused = (named(spans_of(collector, number)[name].attributes) for number in (50, 51))
    of_grpc = {"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService", "rpc.method": "ModelInfer"}
    assert answered == of_grpc | {
        "rpc.grpc.status_code": 0, "proteus.family": "shapes", "proteus.variant": "shapes-s", "proteus.accuracy": 0.7,
        "proteus.device": "cpu0", "proteus.batch_size": 1, "proteus.rows": 1, "proteus.outcome": "served",
    }  # fmt: skip
    assert refused == of_grpc | {"rpc.grpc.status_code": 3, "error.type": "BadRequest"}
    assert all(span.trace_id != trace_id(52) for span in collector.spans)


def test_requests_of_one_batch_link_to_its_span(patient: LiveServer, collector: Collector) -> None:
    four = {"inputs": [{**X, "shape": [4, 4], "data": X["data"] * 4}]}
    with ThreadPoolExecutor(2) as pool:
        replies = list(pool.map(lambda number: patient.infer("shapes", four, parent(number)), (2, 3)))
    assert [reply.document()["parameters"]["batch_size"] for reply in replies] == [8, 8]
    (link,), (other,) = (spans_of(collector, number)["compute"].links for number in (2, 3))
    assert (link.trace_id, link.span_id) == (other.trace_id, other.span_id)
    spans = collector.until(lambda spans: any(span.span_id == link.span_id for span in spans))
    (batch,) = [span for span in spans if span.span_id == link.span_id]
    assert (batch.name, batch.parent_span_id, batch.trace_id) == ("batch", b"", link.trace_id)
    assert named(batch.attributes)["proteus.batch_size"] == 8


WRONG: list[Any] = [
    pytest.param(10, "shapes", {"inputs": []}, 400, None, id="malformed"),
    pytest.param(11, "tones", GOOD, 429, "rejected", id="refused"),
    pytest.param(12, "shapes", {**GOOD, "parameters": {"timeout": 1}}, 400, "rejected", id="never in time"),
    pytest.param(13, "shapes", {**GOOD, "parameters": {"timeout": 4082}}, 504, "dropped", id="too late"),
]


@pytest.mark.parametrize(("number", "family", "body", "status", "outcome"), WRONG)
def test_what_goes_wrong_is_told(
    server: LiveServer, collector: Collector, number: int, family: str, body: Any, status: int, outcome: str | None
) -> None:
    assert server.infer(family, body, parent(number)).status == status
    request = spans_of(collector, number)["POST /v2/models/{model}/infer"]
    attributes = named(request.attributes)
    assert (attributes["http.response.status_code"], attributes.get("proteus.outcome")) == (status, outcome)
    assert attributes["error.type"] in {"BadRequest", "Overloaded", "BoundsUnmet", "DeadlineExceeded"}
    assert request.status.code == (Status.STATUS_CODE_ERROR if status >= 500 else Status.STATUS_CODE_UNSET)


def test_a_client_that_goes_away_is_told(patient: LiveServer, collector: Collector) -> None:
    body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
    head = b"POST /v2/models/shapes/infer HTTP/1.1\r\nhost: localhost\r\ntraceparent: %b\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", patient.port), ANSWER_WITHIN_S) as client:
        client.sendall(head % (parent(20)["traceparent"].encode(), len(body)) + body)
        patient.until(lambda status: status["inside"] == 1)
    request = spans_of(collector, 20)["POST /v2/models/{model}/infer"]
    assert [event.name for event in request.events] == ["cancelled"]
    assert named(request.attributes)["proteus.outcome"] == "dropped"


NOT_SAMPLED: list[Any] = [
    pytest.param({}, id="no parent"),
    pytest.param(parent(30, "00"), id="parent that is not sampled"),
    pytest.param({"traceparent": f"00-{TRACE}-{'0' * 16}-01"}, id="no such span"),
    pytest.param({"traceparent": f"00-{'0' * 32}-{PARENT}-01"}, id="no such trace"),
    pytest.param({"traceparent": f"ff-{TRACE}-{PARENT}-01"}, id="no such version"),
    pytest.param({"traceparent": f"00-{TRACE}-{PARENT}-01-more"}, id="more than there should be"),
    pytest.param({"traceparent": f"00-{TRACE.upper()}-{PARENT}-01"}, id="capitals"),
    pytest.param({"traceparent": "garbage"}, id="garbage"),
]


@pytest.mark.parametrize("headers", NOT_SAMPLED)
def test_what_is_not_sampled_leaves_no_trace(
    server: LiveServer, collector: Collector, headers: dict[str, str], request: pytest.FixtureRequest
) -> None:
    reply = server.infer("shapes", GOOD, headers)
    assert reply.status == 200
    assert "traceparent" not in reply.headers
    number = 0x100 + NOT_SAMPLED_IDS.index(request.node.callspec.id)
    before = len([span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER])
    server.infer("shapes", GOOD, parent(number))  # sent behind it, so when this is here, that will not come
    spans_of(collector, number)
    assert len([span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]) == before + 1


NOT_SAMPLED_IDS = [each.id for each in NOT_SAMPLED]


def test_a_version_to_come_is_read_as_far_as_it_is_known(server: LiveServer, collector: Collector) -> None:
    headers = {"traceparent": f"01-{TRACE[:-4]}0040-{PARENT}-09-more"}
    assert server.infer("shapes", GOOD, headers).headers["traceparent"].startswith("00-")
    assert spans_of(collector, 0x40)


def test_a_share_of_what_nobody_decided_on_is_sampled_and_sent_before_the_server_ends(tmp_path: Path) -> None:
    with collecting() as found, traced(tmp_path, found, sample="1") as live:
        replies = [live.infer("shapes", GOOD) for _ in range(3)]
        assert live.stop() == 0
        requests = [span for span in found.spans if span.kind == Span.SPAN_KIND_SERVER]
        assert [span.parent_span_id for span in requests] == [b"", b"", b""]
        told = [reply.headers["traceparent"].split("-") for reply in replies]
        assert {(trace, span) for _, trace, span, _ in told} == {(s.trace_id.hex(), s.span_id.hex()) for s in requests}
        assert all(int(flags, 16) & 1 for *_, flags in told)


def test_a_collector_that_is_not_there_hurts_nobody(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = Collector(f"http://127.0.0.1:{unused.getsockname()[1]}")
        with traced(tmp_path, nobody, sample="1") as live:
            assert [live.infer("shapes", GOOD).status for _ in range(3)] == [200, 200, 200]
            start_s = time.monotonic()
            assert live.stop() == 0
            assert time.monotonic() - start_s < 20


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("opentelemetry", "opentelemetry.context"), None))
sys.argv = ["proteus", "serve", "plan", "--port", "0", "-w", sys.argv[1], f"--set=otlp={sys.argv[2]}"]
from proteus_cli.cli.main import run
run()
"""


@pytest.fixture
def untraced(tmp_path: Path) -> Path:
    made = make_workspace(tmp_path, (ROOMY,))
    add_profiles(made, ("cpu0",))
    add_plan(made, {"cpu0": "shapes-s"})
    return made.root


def test_without_what_sends_traces_a_server_ends(untraced: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, str(untraced), "http://127.0.0.1:4318"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ANSWER_WITHIN_S)
    assert (done.returncode, "Traceback" in done.stderr) == (4, False), done.stderr
    assert "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in done.stderr


@pytest.mark.parametrize("url", ["127.0.0.1:4318", "http://[::1", "http://h:80000", "http://a..b", "http://", ""])
def test_what_is_no_url_of_a_collector_is_refused(untraced: Path, url: str) -> None:
    ended = proteus("serve", "plan", "--port", "0", "-w", untraced, f"--set=otlp={url}")
    assert ended.refused() == f"`{url}` is not the URL of a collector."
