"""Triton's own HTTP clients, as they are, against a running server: the same calls from the one and the asyncio one."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf.json_format import ParseDict
from live_server import LiveServer, WithHeaders, serving
from onnx import TensorProto, helper
from tiny import TONES, TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace, save_model, tensor
from tritonclient import http
from tritonclient.grpc import service_pb2
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from proteus_cli import __version__
from proteus_cli.serving.oip.tensors import DATATYPES

pytestmark = pytest.mark.live

Ask = Callable[..., Any]
"""A method of a client by its name, and what it is called with."""

TOKEN = "f00d" * 8
WIDTH = 1024
MAX_ROWS = 8
TYPES = TinyFamily("types", (TinyVariant("types-s", 0.75, hidden=4, row_s=0.12),), slo="60s")
WIDE = TinyFamily("wide", (TinyVariant("wide-s", 0.5, hidden=4, row_s=0.12),), slo="60s")
ONNX_TYPES = {
    "BOOL": TensorProto.BOOL, "UINT8": TensorProto.UINT8, "UINT16": TensorProto.UINT16, "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64, "INT8": TensorProto.INT8, "INT16": TensorProto.INT16, "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT, "FP64": TensorProto.DOUBLE,
}  # fmt: skip


def every_type(path: Path) -> None:
    """Gives an input of two values back, for each type."""
    save_model(
        path,
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in ONNX_TYPES],
        inputs=[tensor(f"in_{name}", ["n", 2], number) for name, number in ONNX_TYPES.items()],
        outputs=[tensor(f"out_{name}", ["n", 2], number) for name, number in ONNX_TYPES.items()],
    )


def wide(path: Path) -> None:
    """Gives many values back with their signs changed, and their sum."""
    save_model(
        path,
        [
            helper.make_node("Neg", ["x"], ["y"]),
            helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=1),
        ],
        inputs=[tensor("x", ["n", WIDTH])],
        outputs=[tensor("y", ["n", WIDTH]), tensor("most", ["n", 1])],
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One device hosts `types`, the other one `wide`; nobody hosts `tones`."""
    made = make_workspace(tmp_path_factory.mktemp("triton"), (TYPES, WIDE, TONES))
    every_type(made.model("types-s"))
    wide(made.model("wide-s"))
    add_profiles(made)
    plan = add_plan(made, {"cpu0": "types-s", "cpu1": "wide-s"})
    with serving(made.root, plan, "--replan=off", "--set=non-finite=refuse", token=TOKEN) as live:
        yield live
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text()


@pytest.fixture(scope="module")
def plain(server: LiveServer) -> Iterator[http.InferenceServerClient]:
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    client.register_plugin(WithHeaders(server.headers))
    yield client
    client.close()


@pytest.fixture(params=["plain", "asyncio"])
def ask(request: pytest.FixtureRequest, server: LiveServer, plain: http.InferenceServerClient) -> Ask:
    def ask_plain(method: str, *args: Any, **options: Any) -> Any:
        return getattr(plain, method)(*args, **options)

    def ask_asyncio(method: str, *args: Any, **options: Any) -> Any:
        async def call() -> Any:
            async with aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
                client.register_plugin(WithHeaders(server.headers))
                return await getattr(client, method)(*args, **options)

        return asyncio.run(call())

    return ask_plain if request.param == "plain" else ask_asyncio


def given(name: str, values: npt.NDArray[Any], datatype: str = "FP32", *, binary: bool = True) -> http.InferInput:
    made = http.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def rows_of_x(rows: int = 1, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


def of_every_type(rows: int) -> dict[str, npt.NDArray[Any]]:
    """The ends of the range of each type, in every row."""
    found: dict[str, npt.NDArray[Any]] = {}
    for name, dtype in DATATYPES.items():
        if name == "BOOL":
            ends: Sequence[Any] = [True, False]
        elif np.issubdtype(dtype, np.integer):
            ends = [np.iinfo(dtype).min, np.iinfo(dtype).max]
        else:
            ends = [np.finfo(dtype).min, np.finfo(dtype).tiny]
        found[name] = np.array([ends] * rows, dtype)
    return found


# --- inference


@pytest.mark.parametrize("rows", [1, 3, MAX_ROWS])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tensors_go_and_come_in_either_form(ask: Ask, *, rows: int, binary_in: bool, binary_out: bool) -> None:
    x = rows_of_x(rows)
    outputs = [http.InferRequestedOutput(name, binary_data=binary_out) for name in ("y", "most")]
    answer = ask("infer", "wide", [given("x", x, binary=binary_in)], outputs=outputs)
    np.testing.assert_array_equal(answer.as_numpy("y"), -x)
    np.testing.assert_array_equal(answer.as_numpy("most"), x.max(axis=1, keepdims=True))
    assert answer.get_output("y")["shape"] == [rows, WIDTH]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("binary", [True, False])
def test_every_type_comes_back_as_it_went(ask: Ask, *, rows: int, binary: bool) -> None:
    sent = of_every_type(rows)
    inputs = [given(f"in_{name}", values, name, binary=binary or name == "FP16") for name, values in sent.items()]
    outputs = [http.InferRequestedOutput(f"out_{name}", binary_data=binary or name == "FP16") for name in sent]
    answer = ask("infer", "types", inputs, outputs=outputs)
    for name, values in sent.items():
        found = answer.as_numpy(f"out_{name}")
        assert (answer.get_output(f"out_{name}")["datatype"], found.dtype) == (name, values.dtype)
        np.testing.assert_array_equal(found, values)


def test_the_answer_says_who_gave_it(ask: Ask) -> None:
    said = ask("infer", "wide", [given("x", rows_of_x(2))], model_version="1", request_id="a-1").get_response()
    assert (said["id"], said["model_name"], said["model_version"]) == ("a-1", "wide", "1")
    parameters = said["parameters"]
    assert (parameters["variant"], parameters["accuracy"], parameters["device"]) == ("wide-s", 0.5, "cpu1")
    assert (parameters["batch_size"], parameters["queue_us"] >= 0, parameters["compute_us"] > 0) == (2, True, True)


def test_only_the_outputs_that_are_asked_for_are_sent(ask: Ask) -> None:
    answer = ask("infer", "wide", [given("x", rows_of_x())], outputs=[http.InferRequestedOutput("most")])
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["most"]
    everything = ask("infer", "wide", [given("x", rows_of_x())])
    assert [output["name"] for output in everything.get_response()["outputs"]] == ["y", "most"]


def test_a_request_may_have_a_priority_a_timeout_and_parameters(ask: Ask) -> None:
    x = rows_of_x()
    options = {"priority": 1, "timeout": 30_000_000, "parameters": {"min_accuracy": 0.5}}
    np.testing.assert_array_equal(ask("infer", "wide", [given("x", x)], **options).as_numpy("y"), -x)


def test_what_would_have_no_effect_is_refused(ask: Ask) -> None:
    with pytest.raises(InferenceServerException, match=r"the parameter `sequence_(id|start|end)` is not supported"):
        ask("infer", "wide", [given("x", rows_of_x())], sequence_id=7, sequence_start=True)


@pytest.mark.parametrize("packs", ["gzip", "deflate"])
@pytest.mark.parametrize("unpacks", ["gzip", "deflate", None])
@pytest.mark.parametrize("binary", [True, False])
def test_a_request_may_be_compressed_and_its_client_may_ask_for_a_compressed_answer(
    ask: Ask, packs: str, unpacks: str | None, *, binary: bool
) -> None:
    x = np.round(rows_of_x(2), 1)
    answer = ask(
        "infer",
        "wide",
        [given("x", x, binary=binary)],
        outputs=[http.InferRequestedOutput("y", binary_data=binary)],
        request_compression_algorithm=packs,
        response_compression_algorithm=unpacks,
    )
    np.testing.assert_array_equal(answer.as_numpy("y"), -x)


def test_requests_at_once_each_get_their_own_answer(server: LiveServer) -> None:
    sent = {str(seed): rows_of_x(1 + seed % 3, seed) for seed in range(12)}

    async def all_at_once() -> dict[str, Any]:
        async with aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            client.register_plugin(WithHeaders(server.headers))
            calls = [client.infer("wide", [given("x", x)], request_id=name) for name, x in sent.items()]
            return {answer.get_response()["id"]: answer for answer in await asyncio.gather(*calls)}

    answers = asyncio.run(all_at_once())
    assert set(answers) == set(sent)
    for name, x in sent.items():
        np.testing.assert_array_equal(answers[name].as_numpy("y"), -x)


def test_the_plain_client_may_ask_and_fetch_later(server: LiveServer) -> None:
    x = rows_of_x()
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4)
    client.register_plugin(WithHeaders(server.headers))
    waiting = [client.async_infer("wide", [given("x", x * factor)]) for factor in range(4)]
    for factor, each in enumerate(waiting):
        np.testing.assert_array_equal(each.get_result().as_numpy("y"), -x * factor)
    client.close()


# --- what the server tells


def test_the_server_and_its_models_are_live_and_ready(ask: Ask) -> None:
    assert ask("is_server_live") is True
    assert ask("is_server_ready") is True
    assert ask("is_model_ready", "wide") is True
    assert ask("is_model_ready", "wide", "1") is True
    assert ask("is_model_ready", "tones") is False
    assert ask("is_model_ready", "nobody") is False


def test_the_server_lists_what_it_offers(ask: Ask) -> None:
    assert ask("get_server_metadata") == {
        "name": "proteus",
        "version": __version__,
        "extensions": [
            "binary_tensor_data", "classification", "model_configuration", "model_repository", "schedule_policy",
            "statistics",
        ],
    }  # fmt: skip


def test_metadata_and_configuration_agree(ask: Ask) -> None:
    for version in ("", "1"):
        metadata, config = (ask(f"get_model_{what}", "types", version) for what in ("metadata", "config"))
        assert metadata["name"] == config["name"] == "types"
        assert metadata["platform"] == config["platform"] == config["backend"] == "onnxruntime"
        assert config["max_batch_size"] == MAX_ROWS
        for place, described in (("inputs", config["input"]), ("outputs", config["output"])):
            assert [(t["name"], f"TYPE_{t['datatype']}", t["shape"]) for t in metadata[place]] == [
                (t["name"], t["data_type"], [-1, *t["dims"]]) for t in described
            ]
        assert config["instance_group"] == [{"name": "types-s on cpu0", "kind": "KIND_CPU", "count": 1, "gpus": []}]


def test_documents_are_tritons_own_messages(ask: Ask) -> None:
    """Parsing is strict: a field that Triton doesn't have, or of another type, would raise."""
    config = ParseDict(ask("get_model_config", "types"), ModelConfig())
    assert [DataType.Name(given.data_type) for given in config.input] == [f"TYPE_{name}" for name in ONNX_TYPES]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.instance_group[0].kind == ModelInstanceGroup.KIND_CPU
    ask("infer", "wide", [given("x", rows_of_x(2))])
    statistics = ParseDict(ask("get_inference_statistics"), service_pb2.ModelStatisticsResponse())
    assert {each.batch_size for each in statistics.model_stats[1].batch_stats} >= {2}


def test_statistics_count_what_was_asked(ask: Ask) -> None:
    def told() -> Any:
        (found,) = ask("get_inference_statistics", "wide")["model_stats"]
        return found

    def batches(found: Any, rows: int) -> int:
        return sum(each["compute_infer"]["count"] for each in found["batch_stats"] if each["batch_size"] == rows)

    before = told()
    for rows in (1, 2, 2):
        ask("infer", "wide", [given("x", rows_of_x(rows))])
    with pytest.raises(InferenceServerException):
        ask("infer", "wide", [given("x", rows_of_x())], timeout=1)
    after = told()
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 3
    assert [batches(after, rows) - batches(before, rows) for rows in (1, 2, 3)] == [1, 2, 0]
    assert after["last_inference"] > before["last_inference"]
    for what, count in {"success": 3, "fail": 1, "queue": 3, "compute_infer": 3}.items():
        now, then = after["inference_stats"][what], before["inference_stats"][what]
        assert (now["count"] - then["count"], now["ns"] >= then["ns"]) == (count, True), what
    assert [found["name"] for found in ask("get_inference_statistics")["model_stats"]] == ["types", "wide", "tones"]


# --- the repository


def test_the_index_lists_families_and_who_answers_for_them(ask: Ask) -> None:
    states = {entry["name"]: entry for entry in ask("get_model_repository_index")}
    assert {name: entry["state"] for name, entry in states.items()} == {
        "types": "READY", "wide": "READY", "tones": "UNAVAILABLE",
    }  # fmt: skip
    assert states["wide"]["variants"] == [{"variant": "wide-s", "accuracy": 0.5, "device": "cpu1"}]
    assert states["tones"]["reason"] == "the plan in force hosts no variant of it"


def test_only_ready_families_are_listed_where_that_is_asked(server: LiveServer) -> None:
    ready = server.ask("POST", "/v2/repository/index", {"ready": True}).document()
    assert [entry["name"] for entry in ready] == ["types", "wide"]
    assert len(server.ask("POST", "/v2/repository/index").document()) == 3
    assert server.ask("POST", "/v2/repository/index", {"ready": "yes"}).status == 400


def test_an_unloaded_family_refuses_until_it_is_loaded(ask: Ask) -> None:
    x = rows_of_x()
    ask("unload_model", "wide")
    assert ask("is_model_ready", "wide") is False
    assert ask("is_server_ready") is True
    states = {entry["name"]: (entry["state"], entry["reason"]) for entry in ask("get_model_repository_index")}
    assert states["wide"] == ("UNAVAILABLE", "unloaded")
    with pytest.raises(InferenceServerException, match="`wide` is unloaded") as refused:
        ask("infer", "wide", [given("x", x)])
    assert refused.value.status() == "503"

    ask("load_model", "wide")
    assert ask("is_model_ready", "wide") is True
    np.testing.assert_array_equal(ask("infer", "wide", [given("x", x)]).as_numpy("y"), -x)


def test_a_repository_may_be_told_no_parameters(server: LiveServer) -> None:
    bodies: list[Any] = [None, {}, {"parameters": None}, {"parameters": {}}]
    for body in bodies:
        assert server.ask("POST", "/v2/repository/models/wide/load", body).status == 200
    assert server.ask("POST", "/v2/repository/models/wide/load", b"{").status == 400
    assert server.ask("POST", "/v2/repository/models/wide/unload", b"\xff").status == 400


# --- errors


def rows_without(rows: int) -> list[http.InferInput]:
    return [given("x", np.zeros((rows, WIDTH), np.float32))]


@pytest.mark.parametrize(
    ("method", "arguments", "options", "status", "text"),
    [
        ("infer", ("nobody", rows_without(1)), {}, "404", "no model `nobody`; there are: types, wide, tones"),
        ("infer", ("wide", rows_without(1), "2"), {}, "404", "no version `2`"),
        ("infer", ("wide", rows_without(1)), {"timeout": 1}, "400", "even an idle device needs"),
        ("infer", ("wide", rows_without(MAX_ROWS + 1)), {}, "400", "at most 8 rows"),
        ("infer", ("wide", [given("x", np.zeros((1, 3), np.float32))]), {}, "400", "must have shape"),
        ("infer", ("wide", [given("x", np.zeros((1, WIDTH)), "FP64")]), {}, "400", "must have datatype FP32"),
        ("infer", ("wide", [given("z", np.zeros((1, WIDTH), np.float32))]), {}, "400", "inputs must be x"),
        ("infer", ("wide", [given("x", np.full((1, WIDTH), np.nan, np.float32))]), {}, "400", "NaN or infinity"),
        ("infer", ("wide", rows_without(1)), {"parameters": {"min_accuracy": 0.6}}, "400", "wide-s (0.5)"),
        ("infer", ("wide", rows_without(1)), {"outputs": [http.InferRequestedOutput("z")]}, "400", "no output `z`"),
        ("infer", ("tones", [given("x", np.zeros((1, 4), np.float32))]), {}, "429", "more queries for `tones`"),
        ("get_model_metadata", ("nobody",), {}, "404", "no model `nobody`"),
        ("get_model_config", ("wide", "7"), {}, "404", "no version `7`"),
        ("get_inference_statistics", ("nobody",), {}, "404", "no model `nobody`"),
        ("load_model", ("nobody",), {}, "400", "failed to load 'nobody', no such model"),
        ("unload_model", ("nobody",), {}, "400", "failed to unload 'nobody', no such model"),
        ("load_model", ("wide",), {"config": "{}"}, "400", "no config or files are taken"),
        ("get_trace_settings", (), {}, "404", "no such endpoint"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) > 3 else "",
)
def test_what_is_wrong_is_an_exception_with_its_status(
    ask: Ask, method: str, arguments: tuple[Any, ...], options: dict[str, Any], status: str, text: str
) -> None:
    with pytest.raises(InferenceServerException) as refused:
        ask(method, *arguments, **options)
    assert refused.value.status() == status
    assert text in refused.value.message()
