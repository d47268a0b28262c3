"""The REST API of a running server: what it answers, what it refuses, and that it counts each request once."""

import gzip
import json
import socket
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from injecting import until_holds
from live_server import ANSWER_WITHIN_S, LiveServer, Reply, serving
from prometheus_client.parser import text_string_to_metric_families
from tiny import TONES, Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace

from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device

pytestmark = pytest.mark.live

# Batches of one are best here, so that every request starts at once; a deadline is far away on any machine.
ROOMY = TinyFamily(
    "shapes",
    (
        TinyVariant("shapes-s", 0.70, hidden=4, first_s=0.004, row_s=0.12),
        TinyVariant("shapes-l", 0.90, hidden=16, first_s=0.008, row_s=0.24),
    ),
    slo="60s",
)
MAX_ROWS = 8
MAX_BODY = 64 * 1024
INFER = "/v2/models/shapes/infer"
JSON_LENGTH = "inference-header-content-length"
X: dict[str, Any] = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}
GOOD = {"inputs": [X]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    tiny = make_workspace(tmp_path_factory.mktemp("live"), (ROOMY, TONES))
    add_profiles(tiny)
    return tiny


@pytest.fixture(scope="module")
def server(made: Tiny) -> Iterator[LiveServer]:
    """Both devices host `shapes`; nobody hosts `tones`."""
    plan = add_plan(made, {"cpu0": "shapes-s", "cpu1": "shapes-l"})
    with serving(made.root, plan, "--replan=off", "--set=max-body=64KiB") as live:
        yield live
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text()


def expected(made: Tiny, variant: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    cpu = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
    with OnnxRuntime(cpu).runner(made.model(variant)) as runner:
        return runner.infer({"x": rows.astype(np.float32)})["scores"]


def outcomes(server: LiveServer) -> dict[str, int]:
    """How many requests ended how, over all families."""
    by_family = server.status()["outcomes"]
    return {name: sum(family[name] for family in by_family.values()) for name in by_family["shapes"]}


def expect_answer(made: Tiny, reply: Reply, rows: npt.NDArray[Any]) -> None:
    """The reply is what one of the variants says to these rows, and says which."""
    assert reply.status == 200, reply
    document = reply.document()
    said = document["parameters"]
    assert (said["variant"], said["accuracy"], said["device"]) in {
        ("shapes-s", 0.70, "cpu0"),
        ("shapes-l", 0.90, "cpu1"),
    }
    (scores,) = document["outputs"]
    assert (scores["name"], scores["datatype"], scores["shape"]) == ("scores", "FP32", [len(rows), 3])
    found = np.reshape(scores["data"], scores["shape"])
    np.testing.assert_allclose(found, expected(made, said["variant"], rows), rtol=1e-4, atol=1e-6)


# --- pages


def test_the_server_says_what_it_is(server: LiveServer) -> None:
    document = server.get("/v2").document()
    assert document["name"] == "proteus"
    assert document["extensions"][0] == "binary_tensor_data"
    assert server.get("/v2/").document() == document


def test_the_server_is_live_and_ready(server: LiveServer) -> None:
    for path, document in (("live", {"live": True}), ("ready", {"ready": True})):
        reply = server.get(f"/v2/health/{path}")
        assert (reply.status, reply.document()) == (200, document)


@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_a_family_says_what_it_takes_and_gives(server: LiveServer, version: str) -> None:
    assert server.get(f"/v2/models/shapes{version}").document() == {
        "name": "shapes",
        "versions": ["1", "shapes-l", "shapes-s"],
        "platform": "onnxruntime",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}],
    }
    ready = server.get(f"/v2/models/shapes{version}/ready")
    assert (ready.status, ready.document()) == (200, {"name": "shapes", "ready": True})


def test_a_family_that_nobody_hosts_is_not_ready_and_refused_with_when_to_ask_again(server: LiveServer) -> None:
    ready = server.get("/v2/models/tones/ready")
    assert (ready.status, ready.document()) == (503, {"name": "tones", "ready": False})
    before = outcomes(server)
    reply = server.infer("tones", GOOD)
    assert (reply.status, reply.headers["retry-after"]) == (429, "1")
    assert outcomes(server) == before | {"rejected": before["rejected"] + 1}


def test_the_status_shows_what_runs(server: LiveServer) -> None:
    status = server.status()
    assert (status["state"], status["policy"], status["inside"], status["changes"]) == ("ready", "proteus", 0, [])
    assert {(p["device"], p["variant"]) for p in status["placements"]} == {("cpu0", "shapes-s"), ("cpu1", "shapes-l")}
    assert status["slo_s"] == {"shapes": 60.0, "tones": 0.2}
    assert status["attainment_target"] == {"shapes": 0.995, "tones": 0.995}
    assert status["best_accuracy"] == {"shapes": 0.9, "tones": 0.95}
    assert status["estimated"] == []


@pytest.mark.parametrize(
    "path",
    [
        f"{INFER}/", "/v2/models/shapes/versions/1/infer/", f"http://127.0.0.9:1{INFER}", f"{INFER}?a=b",
        "/v2/models/%73hapes/infer",
    ],
)  # fmt: skip
def test_a_path_may_end_in_a_slash_or_name_the_server(made: Tiny, server: LiveServer, path: str) -> None:
    expect_answer(made, server.ask("POST", path, GOOD), np.array([X["data"]]))
    assert server.get("http://127.0.0.9:1/v2/").document() == server.get("/v2").document()


def test_a_head_is_what_a_page_says_without_saying_it(server: LiveServer) -> None:
    paths = server.get("/openapi.json").document()["paths"]
    pages = {
        path.format(model="shapes", family="shapes", version="1", file="page.css")
        for path, verbs in paths.items()
        if "get" in verbs
    }
    assert len(pages) > 10
    for path in pages:
        head, page = server.ask("HEAD", path), server.get(path)
        assert (head.status, head.body) == (page.status, b"")
        assert head.headers["content-type"] == page.headers["content-type"]
        if path not in {"/metrics", "/v2/proteus/status", "/v2/proteus/history"}:  # which change
            assert head.headers == page.headers


# --- answers


@pytest.mark.parametrize("data", [[0.1, 0.2, 0.3, 0.4], [[0.1, 0.2, 0.3, 0.4]]])
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_a_row_is_answered(made: Tiny, server: LiveServer, data: Any, version: str) -> None:
    reply = server.ask("POST", f"/v2/models/shapes{version}/infer", {"inputs": [{**X, "data": data}]})
    expect_answer(made, reply, np.array([[0.1, 0.2, 0.3, 0.4]]))
    assert reply.headers["content-type"] == "application/json"
    assert "id" not in reply.document()


def test_a_version_answers_who_asks_for_it(server: LiveServer) -> None:
    """The plan hosts `shapes-s` and `shapes-l`."""
    for version in ("shapes-s", "shapes-l", "shapes%2Ds"):
        document = server.ask("POST", f"/v2/models/shapes/versions/{version}/infer", GOOD).document()
        name = version.replace("%2D", "-")
        assert (document["model_version"], document["parameters"]["variant"]) == (name, name)
    ready, instances = {}, {}
    for family, version in (("shapes", "shapes-l"), ("tones", "tones-s")):
        path = f"/v2/models/{family}/versions/{version}"
        ready[version] = server.get(f"{path}/ready").document()["ready"]
        instances[version] = [each["name"] for each in server.get(f"{path}/config").document()["instance_group"]]
    assert ready == {"shapes-l": True, "tones-s": False}
    assert instances == {"shapes-l": ["shapes-l on cpu1"], "tones-s": []}


def test_a_version_that_is_not_known_is_refused_with_those_there_are(server: LiveServer) -> None:
    reply = server.ask("POST", "/v2/models/shapes/versions/2/infer", GOOD)
    told = "`shapes` has no version `2`; there are: 1, shapes-l, shapes-s"
    assert (reply.status, reply.document()) == (404, {"error": told})
    assert server.get("/v2/models/shapes/versions/shapes-s/stats").status == 404


def test_rows_of_one_request_are_answered_in_order(made: Tiny, server: LiveServer) -> None:
    rows = np.random.default_rng(0).random((MAX_ROWS, 4))
    reply = server.infer("shapes", {"inputs": [{**X, "shape": [MAX_ROWS, 4], "data": rows.tolist()}]})
    expect_answer(made, reply, rows.astype(np.float32))
    assert reply.document()["parameters"]["batch_size"] == MAX_ROWS


def test_the_id_comes_back(server: LiveServer) -> None:
    assert server.infer("shapes", {**GOOD, "id": "a-1 ü"}).document()["id"] == "a-1 ü"


@pytest.mark.parametrize("outputs", [[{"name": "scores"}], [], None])
def test_outputs_can_be_chosen(server: LiveServer, outputs: Any) -> None:
    document = server.infer("shapes", {**GOOD, "outputs": outputs}).document()
    assert [output["name"] for output in document["outputs"]] == ["scores"]


@pytest.mark.parametrize("pad", range(8))
def test_tensors_come_and_go_in_binary(made: Tiny, server: LiveServer, pad: int) -> None:
    """However long the JSON before them is, so that they begin at any address."""
    rows = np.random.default_rng(pad).random((2, 4)).astype(np.float32)
    tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32", "parameters": {"binary_data_size": rows.nbytes}}
    head = json.dumps({"inputs": [tensor], "id": "i" * pad, "parameters": {"binary_data_output": True}}).encode()
    reply = server.infer("shapes", head + rows.tobytes(), {JSON_LENGTH: str(len(head))})
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers[JSON_LENGTH])
    document = json.loads(reply.body[:length])
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 24}
    scores = np.frombuffer(reply.body[length:], "<f4").reshape(2, 3)
    np.testing.assert_allclose(scores, expected(made, document["parameters"]["variant"], rows), rtol=1e-4, atol=1e-6)


def test_binary_may_go_in_and_json_come_out_and_the_other_way_round(made: Tiny, server: LiveServer) -> None:
    rows = np.array([[1, 2, 3, 4]], np.float32)
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor]}).encode()
    reply = server.infer("shapes", head + rows.tobytes(), {JSON_LENGTH: str(len(head))})
    expect_answer(made, reply, rows)
    assert JSON_LENGTH not in reply.headers

    outputs = [{"name": "scores", "parameters": {"binary_data": True}}]
    reply = server.infer("shapes", {**GOOD, "outputs": outputs})
    assert reply.status == 200
    assert len(reply.body) - int(reply.headers[JSON_LENGTH]) == 12


def test_what_is_not_a_number_passes_through(server: LiveServer) -> None:
    """Unless `--set non-finite=refuse` says otherwise, which other tests do."""
    rows = np.array([[np.nan, 1, 2, np.inf]], np.float32)
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    reply = server.infer("shapes", head + rows.tobytes(), {JSON_LENGTH: str(len(head))})
    assert reply.status == 200
    assert np.isnan(np.frombuffer(reply.body[int(reply.headers[JSON_LENGTH]) :], "<f4")).any()


def test_the_length_of_the_json_may_be_all_of_it(made: Tiny, server: LiveServer) -> None:
    body = json.dumps(GOOD).encode()
    expect_answer(made, server.infer("shapes", body, {JSON_LENGTH: str(len(body))}), np.array([X["data"]]))


@pytest.mark.parametrize("timeout", [0, 60_000_000, 6e7, 2**63 - 1])
def test_a_deadline_of_its_own_is_taken(made: Tiny, server: LiveServer, timeout: int) -> None:
    expect_answer(made, server.infer("shapes", {**GOOD, "parameters": {"timeout": timeout}}), np.array([X["data"]]))


def test_only_variants_that_are_accurate_enough_answer(made: Tiny, server: LiveServer) -> None:
    body = {**GOOD, "parameters": {"min_accuracy": 0.8, "priority": 1}}
    replies = [server.infer("shapes", body).document() for _ in range(6)]
    assert {reply["parameters"]["variant"] for reply in replies} == {"shapes-l"}


def test_a_minimum_that_nobody_has_is_refused_with_what_there_is(server: LiveServer) -> None:
    reply = server.infer("shapes", {**GOOD, "parameters": {"min_accuracy": 0.95}})
    assert reply.status == 400
    assert reply.headers["proteus-outcome"] == "rejected"
    assert "shapes-l (0.9), shapes-s (0.7)" in reply.document()["error"]


def test_a_body_may_come_in_pieces(made: Tiny, server: LiveServer) -> None:
    body = json.dumps(GOOD).encode()
    pieces = iter([body[:10], body[10:11], body[11:]])
    reply = server.ask("POST", INFER, pieces, {"transfer-encoding": "chunked"}, chunked=True)
    expect_answer(made, reply, np.array([X["data"]]))


def test_one_connection_carries_good_and_bad_requests(server: LiveServer) -> None:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=ANSWER_WITHIN_S)
    statuses = []
    try:
        for body in [json.dumps(GOOD), "{", json.dumps(GOOD), "", json.dumps(GOOD)]:
            connection.request("POST", INFER, body)
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
    finally:
        connection.close()
    assert statuses == [200, 400, 200, 400, 200]


# --- refusals: (method, path, headers, body) → status


def infers(body: Any, status: int = 400, name: str = "", **headers: str) -> Any:
    named = {header.replace("_", "-"): value for header, value in headers.items()}
    return pytest.param("POST", INFER, named, body, status, id=name or str(body)[:60])


def tensor(**fields: Any) -> Any:
    return infers({"inputs": [{**X, **fields}]}, name=str(fields)[:60])


def binary(size: object, content: bytes, name: str) -> Any:
    described = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [described]}).encode()
    return infers(head + content, name=name, inference_header_content_length=str(len(head)))


def posts(path: str, body: Any, status: int = 400) -> Any:
    return pytest.param("POST", path, {}, body, status, id=f"{path} {str(body)[:30]}")


def pages(method: str, path: str, status: int) -> Any:
    return pytest.param(method, path, {}, None, status, id=f"{method} {path}")


NINES = 10**400
WRONG = [
    infers(b"", name="empty"),
    infers(b"{", name="half an object"),
    infers(b"\xff\xfe\x00", name="not text"),
    infers(b"[" * 50_000, name="deep"),
    infers(b'{"inputs":[{"data":' + b"[" * 50_000, name="deep data"),
    infers(b'{"parameters":' + b'{"a":' * 10_000, name="deep parameters"),
    infers([], name="a list"),
    infers({}),
    infers({"inputs": []}),
    infers({"inputs": [X, X]}, name="twice"),
    infers({"inputs": [X], "id": 3}, name="id"),
    infers({"inputs": [X], "outputs": [{"name": "nothing"}]}, name="no such output"),
    tensor(name="y"),
    tensor(datatype="FP64"),
    tensor(datatype="BYTES"),
    tensor(shape=[4]),
    tensor(shape=[1, 5]),
    tensor(shape=[0, 4], data=[]),
    tensor(shape=[-1, 4]),
    tensor(shape=[1, -4]),
    tensor(shape=[2**62, 4]),
    tensor(shape=[NINES, 4]),
    tensor(shape=[1e18, 4]),
    tensor(shape=["1", 4]),
    tensor(data=[1, 2, 3]),
    tensor(data=[1, 2, 3, 4, 5]),
    tensor(data=[[1, 2], [3]]),
    tensor(data=["1", "2", "3", "4"]),
    tensor(data=[1, 2, None, 4]),
    tensor(data=[True, True, True, True]),
    tensor(data=None),
    tensor(data={"a": 1}),
    tensor(data=[NINES, 2, 3, 4]),
    tensor(shape=[MAX_ROWS + 1, 4], data=[0] * 4 * (MAX_ROWS + 1)),
    binary(16, bytes(15), "binary: cut off"),
    binary(16, bytes(17), "binary: more than claimed"),
    binary(12, bytes(12), "binary: too few values"),
    binary(20, bytes(20), "binary: too many values"),
    binary(15, bytes(15), "binary: half a value"),
    binary(-16, bytes(16), "binary: negative"),
    binary("16", bytes(16), "binary: text"),
    binary(1.5, bytes(16), "binary: a fraction"),
    *(
        infers(GOOD, name=f"JSON length {length[:9]}", inference_header_content_length=length)
        for length in ("-1", "ten", "", "1.5", "0", "5", "99999", "9" * 18, "9" * 5000, "0x10", "1_0")
    ),
    infers(GOOD, name="gzip", content_encoding="gzip"),
    infers(GOOD, name="identity", content_encoding="br"),
    *(
        infers({**GOOD, "parameters": {"timeout": timeout}}, name=f"timeout {str(timeout)[:9]}")
        for timeout in ("soon", "1000", -1, 1.5, True, [1], {"us": 1}, NINES, 2**63, 1e30)
    ),
    infers({**GOOD, "parameters": {"timeout": 1}}, name="timeout 1"),
    infers({**GOOD, "parameters": {"timeout": 4081}}, name="timeout 4081"),  # 4 ms as profiled, in 98 % of it
    infers({**GOOD, "parameters": {"timeout": 4082}}, 504, name="timeout 4082"),
    infers({**GOOD, "parameters": {"min_accuracy": 90}}, name="min_accuracy in percent"),
    infers({**GOOD, "parameters": {"min_accuracy": "0.9"}}, name="min_accuracy as text"),
    infers({**GOOD, "parameters": {"priority": -1}}, name="priority below zero"),
    infers({**GOOD, "parameters": {"timeout": False}}, name="timeout false"),
    infers({**GOOD, "parameters": {"binary_data_output": 1}}, name="binary_data_output as a number"),
    infers({**GOOD, "outputs": [{"name": "scores", "parameters": {"binary_data": "no"}}]}, name="binary_data as text"),
    infers({**GOOD, "parameters": {"priority": 1.5}}, name="priority in between"),
    infers(bytes(MAX_BODY + 1), 413, name="too large"),
    infers(gzip.compress(bytes(MAX_BODY + 1)), 413, name="too large once unpacked", content_encoding="gzip"),
    pages("POST", "/v2/models/nobody/infer", 404),
    pages("POST", "/v2/models//infer", 404),
    pages("POST", "/v2/models/shapes%00/infer", 404),
    pages("POST", "/v2/models/shapes/versions/2/infer", 404),
    pages("POST", "/v2/models/shapes/versions/infer", 404),
    pages("GET", "/v2/models/nobody", 404),
    pages("GET", "/v2/models/nobody/ready", 404),
    pages("GET", "/v2/models/shapes/versions/2", 404),
    pages("GET", "/v2/models/shapes/versions/2/ready", 404),
    pages("GET", "/v2/models", 404),
    pages("GET", "/v2/models/nobody/config", 404),
    pages("GET", "/v2/models/nobody/stats", 404),
    pages("GET", "/v2/models/shapes/versions/2/config", 404),
    pages("GET", "/v2/models/shapes/versions/2/stats", 404),
    pages("GET", "/v2/repository", 404),
    posts("/v2/repository/models/shapes/unload", None, 403),
    posts("/v2/repository/index", b"[" * 50_000),
    posts("/v2/repository/index", {"ready": 1}),
    pages("GET", "/ui", 404),
    pages("GET", "/ui/main.jsx", 404),
    pages("GET", "/ui/%2e%2e/v2", 404),
    pages("GET", "/v2%2fproteus/status", 404),
    pages("GET", "/v2/%70roteus/status", 404),
    pages("POST", "/", 405),
    pages("GET", "/v2/proteus/history?since=now", 400),
    pages("GET", "/v2/proteus/history?since=0badcafe-1&since=0badcafe-2", 400),
    pages("GET", "/v2/proteus/history?" + "a&" * 20, 400),
    pages("GET", "/v2/proteus/history?since=%FF", 400),
    pages("GET", "/v3", 404),
    pages("GET", "/v2/health", 404),
    pages("GET", "/proteus", 404),
    pages("GET", "/%F0%9F%90%88", 404),
    pages("GET", INFER, 405),
    pages("PUT", INFER, 405),
    pages("DELETE", "/v2/models/shapes", 405),
    pages("POST", "/v2", 405),
    pages("POST", "/metrics", 405),
    pages("POST", "/v2/proteus/status", 405),
    posts("/v2/proteus/plan", {}, 403),
]


@pytest.mark.parametrize(("method", "path", "headers", "body", "status"), WRONG)
def test_what_is_wrong_is_refused_and_the_next_request_is_answered(
    made: Tiny, server: LiveServer, method: str, path: str, headers: Mapping[str, str], body: Any, status: int
) -> None:
    before = outcomes(server)
    reply = server.ask(method, path, body, headers)
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/json"
    assert list(reply.document()) == ["error"]
    assert len(reply.document()["error"]) > 10
    assert "internal error" not in reply.document()["error"]
    if status == 405:
        assert reply.headers["allow"] == ("POST" if path == INFER else "GET")

    expect_answer(made, server.infer("shapes", GOOD), np.array([X["data"]]))
    rejected = "even an idle device needs" in reply.document()["error"] and status == 400
    ends = {
        "served": before["served"] + 1,
        "dropped": before["dropped"] + (status == 504),
        "rejected": before["rejected"] + rejected,
    }
    assert outcomes(server) == before | ends  # what never came in isn't counted, the rest once


@pytest.mark.parametrize(("timeout_us", "told"), [(1, (400, "rejected")), (4082, (504, "dropped"))])
def test_a_deadline_that_cannot_be_met_is_told(server: LiveServer, timeout_us: int, told: tuple[int, str]) -> None:
    """An idle device needs 4.082 ms, as profiled: then no time is left to ask it."""
    reply = server.infer("shapes", {**GOOD, "parameters": {"timeout": timeout_us}})
    assert (reply.status, reply.headers["proteus-outcome"]) == told


def test_a_body_in_pieces_that_grows_too_large_is_refused(made: Tiny, server: LiveServer) -> None:
    pieces = (b" " * 16_384 for _ in range(5))
    reply = server.ask("POST", INFER, pieces, {"transfer-encoding": "chunked"}, chunked=True)
    assert reply.status == 413
    expect_answer(made, server.infer("shapes", GOOD), np.array([X["data"]]))


def test_a_body_of_the_largest_size_is_taken(made: Tiny, server: LiveServer) -> None:
    body = json.dumps(GOOD).encode()
    expect_answer(made, server.infer("shapes", body.ljust(MAX_BODY)), np.array([X["data"]]))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x16\x03\x01\x02\x00",
        b"GET /v2 HTTP/9.9\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nhost: localhost\r\ncontent-length: many\r\n\r\n{}",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["nothing", "TLS", "version", "half a body", "length", "chunk"],
)
def test_a_client_that_talks_nonsense_or_goes_away_harms_nobody(made: Tiny, server: LiveServer, sent: bytes) -> None:
    before = outcomes(server)
    with socket.create_connection(("127.0.0.1", server.port), ANSWER_WITHIN_S) as client:
        client.sendall(sent)
    expect_answer(made, server.infer("shapes", GOOD), np.array([X["data"]]))
    assert outcomes(server) == before | {"served": before["served"] + 1}


# --- metrics

NAMES = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_request_duration_us", "nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us",
    "nv_inference_pending_request_count", "proteus_requests_total", "proteus_request_latency_seconds_bucket",
    "proteus_request_latency_seconds_sum", "proteus_batch_size_bucket", "proteus_effective_accuracy",
    "proteus_demand_qps", "proteus_plan_info",
}  # fmt: skip


def test_metrics_are_prometheus_text_with_the_names_that_dashboards_expect(server: LiveServer) -> None:
    server.infer("shapes", GOOD)
    server.infer("shapes", {**GOOD, "parameters": {"timeout": 1}})
    server.infer("tones", GOOD)
    reply = server.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [s for family in text_string_to_metric_families(reply.body.decode()) for s in family.samples]
    lines = reply.body.decode().splitlines()  # the parser would have each counter end in _total
    assert {line.partition("{")[0].partition(" ")[0] for line in lines} >= NAMES

    by_family = server.status()["outcomes"]
    counted = {family: dict.fromkeys(found, 0) for family, found in by_family.items()}
    for sample in samples:
        if sample.name == "proteus_requests_total":
            assert set(sample.labels) == {"family", "variant", "device", "outcome"}
            counted[sample.labels["family"]][sample.labels["outcome"]] += int(sample.value)
    assert counted == by_family

    of = {(s.name.removesuffix("_total"), s.labels.get("model"), s.labels.get("reason")): s.value for s in samples}
    assert of["nv_inference_request_success", "shapes", None] == by_family["shapes"]["served"]
    given_up = sum(of["nv_inference_request_failure", "shapes", reason] for reason in ("REJECTED", "CANCELED"))
    assert given_up == by_family["shapes"]["dropped"] + by_family["shapes"]["rejected"] > 0
    assert of["nv_inference_request_failure", "tones", "REJECTED"] == by_family["tones"]["rejected"]
    assert of["nv_inference_pending_request_count", "shapes", None] == 0
    assert of["nv_inference_count", "shapes", None] >= of["nv_inference_exec_count", "shapes", None] > 0


# --- the page that people watch


def test_the_page_is_sent(server: LiveServer) -> None:
    page = server.get("/")
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<title>Proteus</title>" in page.body


def test_the_history_goes_on_where_it_was_left(server: LiveServer) -> None:
    first = server.get("/v2/proteus/history").document()
    later = f"/v2/proteus/history?since={first['cursor']}"
    then = until_holds(lambda: server.get(later).document(), lambda found: bool(found["samples"]["at_s"]))
    assert then["server"] == first["server"]
    assert not set(then["samples"]["at_s"]) & set(first["samples"]["at_s"])
    assert set(then["families"]) == {"shapes", "tones"}
    assert {name: device["variants"] for name, device in then["devices"].items()} == {
        "cpu0": ["shapes-s"],
        "cpu1": ["shapes-l"],
    }
