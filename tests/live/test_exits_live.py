"""A multi-exit model, served: each row stops at its exit, and the answer says which, over both protocols."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from exit_nets import add_exits
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from tiny import SHAPES, TinyFamily, make_workspace
from tritonclient import grpc

from proteus_cli.arrays import Singles
from proteus_cli.backends.exits.loading import WithExits
from proteus_cli.backends.exits.runner import CONFIDENCE_NOTE, EXIT_NOTE
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device
from proteus_cli.domain.exits import ExitProfile

pytestmark = pytest.mark.live

ROWS = np.random.default_rng(5).normal(size=(8, 4)).astype(np.float32)
EXITS = (ExitProfile(0.5, 0.9, 0.4), ExitProfile(0.3, 0.7, 0.3), ExitProfile(0.2, 0.5))


@pytest.fixture(scope="module", params=["in the server", "in a process"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    made = make_workspace(tmp_path_factory.mktemp("exits"), (TinyFamily("shapes", SHAPES.variants[:1], slo="60s"),))
    path = add_exits(made, "shapes-exits", "confidence >= 2", EXITS)
    apart = ["--executor", "process"] if request.param == "in a process" else []
    with serving(made.root, path, "--replan=off", "--grpc-port", "0", *apart) as live:
        yield live
        assert live.stop() == 0, live.log.read_text()


def answered(server: LiveServer, rows: Singles) -> tuple[dict[str, object], Singles]:
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    reply = server.infer("shapes", {"inputs": [tensor]})
    assert reply.status == 200, reply.body
    document = reply.document()
    assert [output["name"] for output in document["outputs"]] == ["scores"]
    output = document["outputs"][0]
    return document["parameters"], np.array(output["data"], np.float32).reshape(output["shape"])


def chain_of(server: LiveServer) -> Path:
    (found,) = (server.log.parent / "engines" / "prepared").glob("*.exits")
    return found


def test_answers_are_those_of_the_chain_and_say_their_exit(server: LiveServer) -> None:
    device = Device("cpu0", "cpu", "cpu", "a CPU", memory_bytes=0, cores=(0,))
    with WithExits(OnnxRuntime(device)).runner(chain_of(server)) as runner:
        expected = runner.infer({"x": ROWS})
    worth = [each.accuracy for each in EXITS]
    assert set(expected[EXIT_NOTE]) == {1, 2, 3}
    for row, place, sure, scores in zip(
        ROWS, expected[EXIT_NOTE], expected[CONFIDENCE_NOTE], expected["scores"], strict=True
    ):
        parameters, own = answered(server, row[None])
        assert (parameters["exit"], parameters["accuracy"]) == (place, worth[place - 1])
        assert parameters["confidence"] == pytest.approx(sure, rel=1e-4)
        assert "stages" not in parameters
        np.testing.assert_allclose(own[0], scores, rtol=1e-3, atol=1e-5)
    parameters, own = answered(server, ROWS)
    assert parameters["exit"] == 3
    assert parameters["accuracy"] == pytest.approx(np.mean([worth[place - 1] for place in expected[EXIT_NOTE]]))
    assert parameters["confidence"] == pytest.approx(min(expected[CONFIDENCE_NOTE]), rel=1e-4)
    np.testing.assert_allclose(own, expected["scores"], rtol=1e-3, atol=1e-5)


def test_grpc_says_the_same(server: LiveServer) -> None:
    parameters, scores = answered(server, ROWS)
    with grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        x = grpc.InferInput("x", list(ROWS.shape), "FP32")
        x.set_data_from_numpy(ROWS)
        answer = client.infer("shapes", [x], timeout=int(ANSWER_WITHIN_S * 1e6))
    told = {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in answer.get_response().parameters.items()}
    for name in ("variant", "accuracy", "exit", "confidence"):
        assert told[name] == parameters[name]
    np.testing.assert_allclose(answer.as_numpy("scores"), scores, rtol=1e-4)
