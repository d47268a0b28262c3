"""Triton's extensions over gRPC say what they say over HTTP, and act on the same families."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import ParseDict
from live_server import LiveServer, WithHeaders, serving
from tiny import SHAPES, TONES, TinyFamily, add_plan, add_profiles, make_workspace
from tritonclient import grpc
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.live
TOKEN = "f00d" * 8


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    made = make_workspace(
        tmp_path_factory.mktemp("extensions"), (TinyFamily("shapes", SHAPES.variants, slo="60s"), TONES)
    )
    add_profiles(made)
    plan = add_plan(made, {"cpu0": "shapes-s"})
    with serving(made.root, plan, "--replan=off", "--grpc-port", "0", token=TOKEN) as live:
        yield live
        assert live.stop() == 0, live.log.read_text()


@pytest.fixture
def client(server: LiveServer) -> Iterator[Any]:
    with grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as made:
        made.register_plugin(WithHeaders(server.headers))
        yield made


def infer(client: Any) -> Any:
    x = grpc.InferInput("x", [1, 4], "FP32")
    x.set_data_from_numpy(np.ones((1, 4), np.float32))
    return client.infer("shapes", [x])


def test_documents_are_the_same_on_both_protocols(server: LiveServer, client: Any) -> None:
    infer(client)
    config = ParseDict({"config": server.get("/v2/models/shapes/config").document()}, service_pb2.ModelConfigResponse())
    assert client.get_model_config("shapes") == config
    for path, family in (("/v2/models/stats", ""), ("/v2/models/shapes/stats", "shapes")):
        statistics = ParseDict(server.get(path).document(), service_pb2.ModelStatisticsResponse())
        told = client.get_inference_statistics(family)
        assert told == statistics
    index = {"models": server.ask("POST", "/v2/repository/index").document()}
    expected = ParseDict(index, service_pb2.RepositoryIndexResponse(), ignore_unknown_fields=True)
    assert client.get_model_repository_index() == expected
    assert [model.state for model in expected.models] == ["READY", "UNAVAILABLE"]
    extensions = client.get_server_metadata().extensions
    assert ["binary_tensor_data", *extensions] == server.get("/v2").document()["extensions"]


def test_what_is_unloaded_on_one_protocol_is_unloaded_on_the_other(server: LiveServer, client: Any) -> None:
    client.unload_model("shapes")
    assert client.is_model_ready("shapes") is False
    assert server.get("/v2/models/shapes/ready").status == 503
    with pytest.raises(InferenceServerException, match="`shapes` is unloaded") as refused:
        infer(client)
    assert refused.value.status() == "StatusCode.UNAVAILABLE"

    assert server.ask("POST", "/v2/repository/models/shapes/load").status == 200
    assert client.is_model_ready("shapes") is True
    infer(client)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("load_model", {"model_name": "nobody"}),
        ("unload_model", {"model_name": "nobody"}),
        ("load_model", {"model_name": "shapes", "config": "{}"}),
    ],
)
def test_what_cannot_be_loaded_is_an_invalid_argument(client: Any, method: str, options: dict[str, str]) -> None:
    with pytest.raises(InferenceServerException, match="failed to") as refused:
        getattr(client, method)(**options)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
