"""Top classes with labels, as Triton's own clients ask for them over each protocol; other extensions are refused."""

import json
import queue
import socket
from collections.abc import Iterator, Sequence
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import proteus, proteus_process
from live_server import LiveServer, serving
from tiny import Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace, passing_on
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.live

PLACES = TinyFamily("places", (TinyVariant("places-s", 0.5, hidden=4),), slo="60s", labels="places.txt")
ROWS = np.array([[0.5, 4, -1, 2], [9, 8, 7, 6.5]], np.float32)
BEST_TWO = [["4.0:1:rue de l'Église", "2.0:3:d"], ["9.0:0:a", "8.0:1:rue de l'Église"]]


def make_places(root: Path, labels: str = "a\nrue de l'Église\r\nc:\nd\n") -> tuple[Tiny, Path]:
    """The scores of a row are its inputs."""
    made = make_workspace(root, (PLACES,))
    passing_on(made.model("places-s"))
    (root / "engines" / "places.txt").write_text(labels, encoding="utf-8", newline="")
    add_profiles(made)
    return made, add_plan(made, {"cpu0": "places-s"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    made, plan = make_places(tmp_path_factory.mktemp("classes"))
    with serving(made.root, plan, "--replan=off", "--grpc-port", "0") as live:
        yield live
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text()


@pytest.fixture(params=[http, grpc], ids=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: LiveServer) -> Iterator[Any]:
    port = server.port if request.param is http else server.grpc_port
    with request.param.InferenceServerClient(f"127.0.0.1:{port}") as made:
        made.library = request.param
        yield made


def asked(library: Any, rows: Any = ROWS, count: int = 2, **how: Any) -> dict[str, Any]:
    x = library.InferInput("x", list(rows.shape), "FP32")
    x.set_data_from_numpy(rows)
    return {"inputs": [x], "outputs": [library.InferRequestedOutput("scores", class_count=count, **how)]}


def texts(answer: Any) -> list[list[str]]:
    found = answer.as_numpy("scores")
    return [[text.decode() if isinstance(text, bytes) else text for text in row] for row in found]


def test_the_best_classes_of_each_row_are_named(client: Any) -> None:
    assert texts(client.infer("places", **asked(client.library))) == BEST_TWO
    assert client.get_server_metadata() is not None


def test_classes_may_be_json(server: LiveServer) -> None:
    with http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        answer = client.infer("places", **asked(http, binary_data=False))
    assert texts(answer) == BEST_TWO
    assert answer.get_output("scores")["datatype"] == "BYTES"


def test_classes_come_over_a_stream(server: LiveServer) -> None:
    answers = queue.Queue[tuple[Any, Any]]()
    with grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for count in (2, 9, 1):
            client.async_stream_infer("places", **asked(grpc, count=count))
        found = [answers.get(timeout=30) for _ in range(3)]
        client.stop_stream()
    assert texts(found[0][0]) == BEST_TWO
    assert "has 4 classes; got `classification` 9" in str(found[1][1])
    assert texts(found[2][0]) == [row[:1] for row in BEST_TWO]


def test_values_and_classes_are_asked_for_side_by_side(client: Any) -> None:
    for _ in range(2):
        plain = client.infer("places", asked(client.library)["inputs"])
        np.testing.assert_array_equal(plain.as_numpy("scores"), ROWS)
        assert texts(client.infer("places", **asked(client.library))) == BEST_TWO


def test_more_classes_than_there_are_are_refused(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="output `scores` has 4 classes; got `classification` 5"):
        client.infer("places", **asked(client.library, count=5))


@pytest.mark.parametrize("count", [0, -1, 1001, 2**70, "2", 1.5, True, [2], {}], ids=str)
def test_a_number_of_classes_that_makes_no_sense_is_refused(server: LiveServer, count: Any) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
    wanted = {"name": "scores", "parameters": {"classification": count}}
    answer = server.infer("places", json.dumps({"inputs": [x], "outputs": [wanted]}).encode())
    assert answer.status == 400
    assert "classification" in answer.document()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "systemsharedmemory/status", "systemsharedmemory/region/a/register", "cudasharedmemory/status",
        "trace/setting", "logging", "models/places/trace/setting",
    ],
)  # fmt: skip
def test_endpoints_of_extensions_that_are_not_there_are_not_found(server: LiveServer, path: str) -> None:
    for method in ("GET", "POST"):
        assert server.ask(method, f"/v2/{path}").status == 404


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("get_system_shared_memory_status", ()), ("register_system_shared_memory", ("a", "k", 8)),
        ("unregister_system_shared_memory", ()), ("get_cuda_shared_memory_status", ()),
        ("get_trace_settings", ()), ("update_log_settings", ({},)), ("get_log_settings", ()),
    ],
)  # fmt: skip
def test_methods_of_extensions_that_are_not_there_are_unimplemented(
    server: LiveServer, method: str, arguments: Sequence[Any]
) -> None:
    with (
        grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client,
        pytest.raises(InferenceServerException) as refused,
    ):
        getattr(client, method)(*arguments)
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ("a\nb\nc\n", "The catalog has 3 labels for `places`, whose output `scores` has 4 classes."),
        ("a\nb\nc\nd\ne\n", "The catalog has 5 labels for `places`, whose output `scores` has 4 classes."),
        ("a\n\nc\nd\n", "line 2: a label has 1 to 256 bytes"),
        ("a\nb\n" + 257 * "c" + "\nd\n", "line 3: a label has 1 to 256 bytes"),
        ("", "line 1: a label has 1 to 256 bytes"),
        ((1 << 20) * "a" + "\n", "too large: a file of labels has at most 1.0 MiB"),
    ],
    ids=["too few", "too many", "none", "too long", "an empty file", "too large"],
)
def test_labels_that_do_not_fit_end_the_server(tmp_path: Path, labels: str, problem: str) -> None:
    made, plan = make_places(tmp_path, labels)
    assert problem in proteus("serve", plan, "--port", "0", "-w", made.root).misused()


def test_labels_that_are_no_file_end_the_server(tmp_path: Path) -> None:
    made, plan = make_places(tmp_path)
    (tmp_path / "engines" / "places.txt").unlink()
    ended = proteus_process("serve", plan, "--port", "0", "-w", made.root)
    assert "No file" in ended.refused()
    (tmp_path / "engines" / "places.txt").mkdir()
    assert "is a directory" in proteus("serve", plan, "--port", "0", "-w", made.root).refused()


TOKEN = "f00d" * 8
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


def best_in_one_write(port: int) -> str:
    """The best class of a row; head and body are sent together, as many clients do."""
    body = json.dumps({
        "inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROWS[0].tolist()}],
        "outputs": [{"name": "scores", "parameters": {"classification": 1}}],
    }).encode()  # fmt: skip
    head = f"POST /v2/models/places/infer HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection(("127.0.0.1", port), 60.0) as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        reply = HTTPResponse(connection)
        reply.begin()
        return json.loads(reply.read())["outputs"][0]["data"][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("how", ["another file", "the same file"])
def test_other_labels_count_once_the_catalog_is_read_for_requests_with_a_known_head_too(
    how: str, tmp_path: Path
) -> None:
    made, plan = make_places(tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    with serving(made.root, plan, "--replan=off", "--auth-tokens", str(tokens)) as live:
        assert [best_in_one_write(live.port) for _ in range(2)] == ["4.0:1:rue de l'Église"] * 2
        name = "others.txt" if how == "another file" else "places.txt"
        (tmp_path / "engines" / name).write_text("A\nB\nC\nD\n")
        catalog = tmp_path / "engines" / "catalog.toml"
        catalog.write_text(catalog.read_text().replace("places.txt", name))
        assert live.ask("POST", "/v2/proteus/catalog", b"", AUTHORIZED).status == 200
        live.until(lambda _: best_in_one_write(live.port) == "4.0:1:B")
        assert live.stop() == 0, live.log.read_text()
