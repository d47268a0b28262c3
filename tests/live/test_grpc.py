"""gRPC of a running server, with clients as they come: tritonclient, grpcio and grpclib, blocking and asyncio."""

import asyncio
import json
import queue
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError
from injecting import pid_of, standing_still, until_holds
from installed import needs
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from onnx import helper
from tiny import SHAPES, Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace, mlp, save_model, tensor
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from proteus_cli.serving.oip.tensors import DATATYPES

pytestmark = pytest.mark.live

Array = npt.NDArray[Any]
WIDTH = 3 * 224 * 224  # an image: 602 KB
TYPES = TinyFamily("types", (TinyVariant("types-s", 0.5, hidden=1),), slo="60s")
WIDE = TinyFamily("wide", (TinyVariant("wide-s", 0.5, hidden=1),), slo="60s")
PATIENT = TinyFamily("shapes", SHAPES.variants, slo="3s")
# A batch takes 10 s by its profile, so that a device that stands still is not taken for one that hangs.
SLOW = TinyFamily("shapes", (TinyVariant("shapes-s", 0.7, hidden=4, first_s=10.0, row_s=0.1),), slo="50s")
LONG_US = 60_000_000
MAX_BODY = 2**20
ROWS = 3
VALUES: dict[str, Array] = {
    name: np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    if name == "BOOL"
    else np.array([[0, 1], [np.iinfo(dtype).min, np.iinfo(dtype).max], [5, 7]], dtype)
    if np.dtype(dtype).kind in "iu"
    else np.array([[0, 1], [-1.5, np.inf], [np.nan, 2]], dtype)
    for name, dtype in DATATYPES.items()
}
CONTENTS = {
    "BOOL": "bool_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "UINT64": "uint64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
}  # fmt: skip


def identity_of_all_types(path: Path) -> None:
    names = [name for name in DATATYPES if name != "FP16"] + ["FP16"]
    save_model(
        path,
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names],
        inputs=[tensor(f"in_{n}", ["n", 2], helper.np_dtype_to_tensor_dtype(np.dtype(DATATYPES[n]))) for n in names],
        outputs=[tensor(f"out_{n}", ["n", 2], helper.np_dtype_to_tensor_dtype(np.dtype(DATATYPES[n]))) for n in names],
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    tiny = make_workspace(tmp_path_factory.mktemp("live"), (TYPES, WIDE))
    identity_of_all_types(tiny.model("types-s"))
    mlp(tiny.model("wide-s"), inputs=WIDTH, hidden=2)
    add_profiles(tiny)
    plan = add_plan(tiny, {"cpu0": "types-s", "cpu1": "wide-s"})
    with serving(tiny.root, plan, "--replan=off", "--grpc-port", "0", "--set=max-body=1MiB") as live:
        yield live
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text()


@pytest.fixture
def channel(server: LiveServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Any:
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture
def client(server: LiveServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        yield client


def inputs_of(library: Any, values: dict[str, Array]) -> list[Any]:
    """What tritonclient's functions take."""
    made = []
    for name, array in values.items():
        given = library.InferInput(f"in_{name}", list(array.shape), name)
        given.set_data_from_numpy(array)
        made.append(given)
    return made


def wide_input(library: Any = triton, rows: int = 1) -> tuple[Array, list[Any]]:
    x = np.random.default_rng(0).random((rows, WIDTH)).astype(np.float32)
    given = library.InferInput("x", [rows, WIDTH], "FP32")
    given.set_data_from_numpy(x)
    return x, [given]


def wide_request(**more: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="wide", **more)
    request.inputs.add(name="x", datatype="FP32", shape=[1, WIDTH])
    request.raw_input_contents.append(np.ones(WIDTH, np.float32).tobytes())
    return request


def check_types(result: Any) -> None:
    for name, array in VALUES.items():
        np.testing.assert_array_equal(result.as_numpy(f"out_{name}"), array)
        assert result.as_numpy(f"out_{name}").dtype == array.dtype


# --- what it is


def test_the_server_and_its_families_say_what_they_are(
    client: triton.InferenceServerClient, server: LiveServer
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("types")
    assert client.is_model_ready("types", "1")
    assert client.get_server_metadata().name == "proteus"
    assert client.get_model_metadata("types", as_json=True)["name"] == "types"
    over_http = server.get("/v2/models/types").document()
    metadata = client.get_model_metadata("types")
    assert [(t.name, t.datatype, list(t.shape)) for t in [*metadata.inputs, *metadata.outputs]] == [
        (t["name"], t["datatype"], t["shape"]) for t in [*over_http["inputs"], *over_http["outputs"]]
    ]
    assert (metadata.platform, list(metadata.versions)) == (over_http["platform"], over_http["versions"])


def test_health_is_told_of_the_server_the_service_and_the_families(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "inference.GRPCInferenceService", "types"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


# --- answers


def test_all_types_come_back_as_they_went(client: triton.InferenceServerClient) -> None:
    check_types(client.infer("types", inputs_of(triton, VALUES), request_id="a1", priority=1, timeout=LONG_US))


def test_answers_are_those_of_http(client: triton.InferenceServerClient, server: LiveServer) -> None:
    over_grpc = client.infer("types", inputs_of(triton, VALUES), request_id="same").get_response()
    head = {
        "id": "same",
        "inputs": [
            {"name": f"in_{n}", "datatype": n, "shape": list(a.shape), "parameters": {"binary_data_size": a.nbytes}}
            for n, a in VALUES.items()
        ],
        "parameters": {"binary_data_output": True},
    }
    encoded = json.dumps(head).encode()
    body = encoded + b"".join(array.tobytes() for array in VALUES.values())
    reply = server.infer("types", body, {"inference-header-content-length": str(len(encoded))})
    json_length = int(reply.headers["inference-header-content-length"])
    over_http = json.loads(reply.body[:json_length])
    assert (over_grpc.model_name, over_grpc.model_version, over_grpc.id) == (
        over_http["model_name"], over_http["model_version"], over_http["id"],
    )  # fmt: skip
    assert [(o.name, o.datatype, list(o.shape)) for o in over_grpc.outputs] == [
        (o["name"], o["datatype"], o["shape"]) for o in over_http["outputs"]
    ]
    assert b"".join(over_grpc.raw_output_contents) == reply.body[json_length:]
    assert set(over_grpc.parameters) == set(over_http["parameters"])
    for name in ("variant", "accuracy", "device", "batch_size"):
        kind = over_grpc.parameters[name].WhichOneof("parameter_choice")
        assert getattr(over_grpc.parameters[name], kind) == over_http["parameters"][name]


def test_numbers_may_come_as_such(stub: Any) -> None:
    """FP16 has no typed contents: then all comes raw, as in Triton."""
    request = service_pb2.ModelInferRequest(model_name="types", id="typed")
    for name, array in VALUES.items():
        given = request.inputs.add(name=f"in_{name}", datatype=name, shape=array.shape)
        if name in CONTENTS:
            getattr(given.contents, CONTENTS[name]).extend(array.ravel().tolist())
    with pytest.raises(grpc.RpcError, match="FP16 has no typed contents"):
        stub.ModelInfer(request)
    for given in request.inputs:
        given.ClearField("contents")
    request.raw_input_contents.extend(array.tobytes() for array in VALUES.values())
    assert stub.ModelInfer(request).id == "typed"


@pytest.mark.parametrize("name", CONTENTS)
def test_numbers_are_checked_against_their_type(stub: Any, name: str) -> None:
    """Too few of them, or of another type; a message that says which."""
    request = service_pb2.ModelInferRequest(model_name="types")
    for other, array in VALUES.items():
        given = request.inputs.add(name=f"in_{other}", datatype=other, shape=array.shape)
        if other in CONTENTS:
            getattr(given.contents, CONTENTS[other]).extend(array.ravel().tolist())
    wrong = next(given for given in request.inputs if given.datatype == name)
    getattr(wrong.contents, CONTENTS[name]).pop()
    with pytest.raises(grpc.RpcError, match=f"in_{name}.* has 5 values"):
        stub.ModelInfer(request)
    wrong.contents.Clear()
    wrong.contents.bytes_contents.append(b"x")
    with pytest.raises(grpc.RpcError, match="not bytes_contents"):
        stub.ModelInfer(request)


def test_outputs_may_be_chosen_and_ordered(client: triton.InferenceServerClient) -> None:
    wanted = [triton.InferRequestedOutput(name) for name in ("out_FP64", "out_BOOL")]
    response = client.infer("types", inputs_of(triton, VALUES), outputs=wanted).get_response()
    assert [output.name for output in response.outputs] == ["out_FP64", "out_BOOL"]
    assert len(response.raw_output_contents) == 2


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_an_image_is_answered(client: triton.InferenceServerClient, compression: str | None) -> None:
    _, inputs = wide_input()
    assert client.infer("wide", inputs, compression_algorithm=compression).as_numpy("scores").shape == (1, 3)


def test_equal_heads_with_other_tensors_are_not_mixed_up(client: triton.InferenceServerClient) -> None:
    """What is remembered of a request is what it has in common with others."""
    for shift in range(4):
        values = {name: np.roll(array, shift, axis=0) for name, array in VALUES.items()}
        result = client.infer("types", inputs_of(triton, values), request_id=f"r{shift % 2}")
        np.testing.assert_array_equal(result.as_numpy("out_INT64"), values["INT64"])
        assert result.get_response().id == f"r{shift % 2}"
    single = {name: array[:1] for name, array in VALUES.items()}
    assert client.infer("types", inputs_of(triton, single)).as_numpy("out_INT8").shape == (1, 2)


def test_asyncio_clients_are_answered_side_by_side(server: LiveServer) -> None:
    async def ask() -> list[Any]:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            inputs = inputs_of(triton_aio, VALUES)
            return await asyncio.gather(*(client.infer("types", inputs, request_id=str(n)) for n in range(50)))

    results = asyncio.run(ask())
    assert [result.get_response().id for result in results] == [str(n) for n in range(50)]
    check_types(results[-1])


def test_a_client_of_another_library_is_answered(server: LiveServer) -> None:
    """grpclib, on h2: it ends requests with an empty frame, and takes small windows."""

    async def ask() -> tuple[Any, Any]:
        channel = Channel("127.0.0.1", server.grpc_port)
        try:
            infer = UnaryUnaryMethod(
                channel,
                "/inference.GRPCInferenceService/ModelInfer",
                service_pb2.ModelInferRequest,
                service_pb2.ModelInferResponse,
            )
            answers = await asyncio.gather(*(infer(wide_request(id=str(n)), timeout=30) for n in range(8)))
            with pytest.raises(GRPCError) as refused:
                await infer(service_pb2.ModelInferRequest(model_name="nobody"))
            return answers, refused.value
        finally:
            channel.close()

    answers, refused = asyncio.run(ask())
    assert [answer.id for answer in answers] == [str(n) for n in range(8)]
    assert refused.status.name == "NOT_FOUND"


def test_a_client_may_go_on_for_long(server: LiveServer, stub: Any) -> None:
    """What it sends besides requests, to give its windows back, to measure the link, is no attack."""
    for _ in range(3_000):
        assert stub.ServerLive(service_pb2.ServerLiveRequest()).live
    request = wide_request()
    for _ in range(100):
        stub.ModelInfer(request)

    async def ask() -> None:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            for _ in range(10):
                await asyncio.gather(*(client.is_server_live() for _ in range(400)))

    asyncio.run(ask())


# --- streams


def test_a_stream_is_answered_in_order_and_goes_on_after_errors(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(400):
        model = "nobody" if number % 10 == 3 else "types"
        client.async_stream_infer(model, inputs_of(triton, VALUES), request_id=str(number))
    for number in range(400):
        result, error = answers.get(timeout=ANSWER_WITHIN_S)
        if number % 10 == 3:
            assert "no model `nobody`" in str(error)
        else:
            assert error is None
            assert result.get_response().id == str(number)
            check_types(result)
    client.stop_stream()


def test_an_asyncio_stream_is_answered(server: LiveServer) -> None:
    async def ask() -> list[str]:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:

            async def requests() -> Any:
                for number in range(20):
                    yield {"model_name": "wide", "inputs": wide_input(triton_aio)[1], "request_id": str(number)}

            found = []
            async for result, error in client.stream_infer(requests()):
                assert error is None
                found.append(result.get_response().id)
            return found

    assert asyncio.run(ask()) == [str(number) for number in range(20)]


# --- refusals


def refused(call: Any, request: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as found:
        call(request, **options)
    return found.value


def test_what_is_wrong_has_its_status(stub: Any, channel: grpc.Channel) -> None:
    infer, code = stub.ModelInfer, grpc.StatusCode
    assert refused(infer, service_pb2.ModelInferRequest(model_name="nobody")).code() is code.NOT_FOUND
    assert refused(infer, wide_request(model_version="2")).code() is code.NOT_FOUND
    assert refused(infer, service_pb2.ModelInferRequest(model_name="wide")).code() is code.INVALID_ARGUMENT
    short = wide_request()
    short.raw_input_contents[0] = short.raw_input_contents[0][:-4]
    assert "has 602108 bytes of data" in str(refused(infer, short).details())
    both = wide_request()
    both.inputs[0].contents.fp32_contents.append(1)
    assert "either all in raw_input_contents, or all in contents" in str(refused(infer, both).details())
    unknown = wide_request()
    unknown.outputs.add(name="nothing")
    assert "no output `nothing`" in str(refused(infer, unknown).details())
    odd = wide_request()
    odd.parameters["timeout"].string_param = "soon"
    assert "got `str` - at `$.timeout`" in str(refused(infer, odd).details())
    choosy = wide_request()
    choosy.parameters["min_accuracy"].double_param = 0.9
    assert refused(infer, choosy).code() is code.INVALID_ARGUMENT
    garbage = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    assert refused(garbage, b"\xff\xff").code() is code.INVALID_ARGUMENT
    assert refused(garbage, b"\x0a\x05ab").code() is code.INVALID_ARGUMENT
    nowhere = channel.unary_unary("/inference.GRPCInferenceService/Nothing")
    assert refused(nowhere, b"").code() is code.UNIMPLEMENTED
    config = stub.ModelMetadata
    assert refused(config, service_pb2.ModelMetadataRequest(name="wide", version="9")).code() is code.NOT_FOUND
    assert refused(stub.SystemSharedMemoryStatus, service_pb2.SystemSharedMemoryStatusRequest()).code() is (
        code.UNIMPLEMENTED
    )


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_that_is_too_large_is_refused(stub: Any, compression: grpc.Compression) -> None:
    """Also one that only unpacks to so much."""
    request = wide_request()
    request.raw_input_contents[0] = bytes(2 * MAX_BODY)
    error = refused(stub.ModelInfer, request, compression=compression)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1048576 bytes" in str(error.details())


def test_a_compression_that_is_not_understood_is_named(stub: Any) -> None:
    error = refused(stub.ModelInfer, wide_request(), compression=grpc.Compression.Deflate)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "identity and gzip are understood" in str(error.details())


@needs("curl")
def test_what_is_no_call_is_answered_in_http(server: LiveServer) -> None:
    """A browser's question, by an HTTP/2 client that is none of gRPC."""
    url = f"http://127.0.0.1:{server.grpc_port}/inference.GRPCInferenceService/ServerLive"
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--http2-prior-knowledge", "--max-time", "10"]
    for options, status in ([], "405"), (["-d", "{}", "-H", "content-type: application/json"], "415"):
        assert subprocess.run([*command, *options, url], capture_output=True, text=True, check=True).stdout == status


# --- time


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[tuple[LiveServer, Any]]:
    """A server whose requests wait for others until shortly before their deadline."""
    with serving_over_grpc(tmp_path, PATIENT, "--set=batching=proactive") as served:
        yield served


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[tuple[LiveServer, Any]]:
    """A server whose device may stand still for a while."""
    with serving_over_grpc(tmp_path, SLOW, "--set=executor=process") as served:
        yield served


@contextmanager
def serving_over_grpc(tmp_path: Path, family: TinyFamily, *options: str) -> Iterator[tuple[LiveServer, Any]]:
    made: Tiny = make_workspace(tmp_path / "ws", (family, TYPES))
    identity_of_all_types(made.model("types-s"))
    add_profiles(made)
    plan = add_plan(made, {"cpu0": "shapes-s"})
    with (
        serving(made.root, plan, "--replan=off", "--grpc-port", "0", "--set=drain-timeout=30s", *options) as live,
        grpc.insecure_channel(f"127.0.0.1:{live.grpc_port}") as channel,
    ):
        yield live, channel
        assert live.process.poll() is not None or live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text()


def shapes_request(**more: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="shapes", **more)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(np.ones(4, np.float32).tobytes())
    return request


def outcomes(live: LiveServer) -> dict[str, int]:
    found: dict[str, int] = live.status()["outcomes"]["shapes"]
    return found


def test_the_sooner_of_both_deadlines_counts(patient: tuple[LiveServer, grpc.Channel]) -> None:
    live, channel = patient
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def took_s(timeout_us: int, timeout_s: float) -> float:
        request, start_s = shapes_request(), time.monotonic()
        request.parameters["timeout"].int64_param = timeout_us
        code = stub.ModelInfer.future(request, timeout=timeout_s).code()
        # Late where other things run on this machine, too.
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
        return time.monotonic() - start_s

    # It waits for company until shortly before the deadline.
    assert took_s(500_000, 60) < 10
    assert took_s(60_000_000, 0.5) < 10
    assert took_s(2_000_000, 60) > 1.5
    request = shapes_request()
    request.parameters["timeout"].int64_param = 1
    error = refused(stub.ModelInfer, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "even an idle device needs 4.09 ms" in str(error.details())
    assert sum(outcomes(live).values()) == 4


def test_a_family_that_nobody_hosts_is_overloaded_and_says_when_to_try_again(
    patient: tuple[LiveServer, grpc.Channel],
) -> None:
    _, channel = patient
    request = service_pb2.ModelInferRequest(model_name="types")
    for name, array in VALUES.items():
        request.inputs.add(name=f"in_{name}", datatype=name, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    error: Any = refused(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer, request)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="types"))
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_both_protocols_refuse_for_good_what_only_another_plan_could_answer_where_none_follows(tmp_path: Path) -> None:
    """A row takes the hosted variant 20 ms, and the fastest one 4 ms."""
    tiny = make_workspace(tmp_path, (SHAPES,))
    add_profiles(tiny)
    plan = add_plan(tiny, {"cpu0": "shapes-l"})
    with serving(tiny.root, plan, "--emulate", "--replan=off", "--grpc-port", "0") as live:
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}]}
        reply = live.infer("shapes", {**body, "parameters": {"timeout": 10_000}})
        assert (reply.status, reply.headers["proteus-outcome"]) == (400, "rejected")
        assert "retry-after" not in reply.headers
        assert "this server makes no other plan by itself" in reply.document()["error"]
        request = shapes_request()
        request.parameters["timeout"].int64_param = 10_000
        with grpc.insecure_channel(f"127.0.0.1:{live.grpc_port}") as channel:
            error: Any = refused(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer, request)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == reply.document()["error"]
        assert "grpc-retry-pushback-ms" not in dict(error.trailing_metadata())
        assert outcomes(live)["rejected"] == 2


def test_a_client_that_cancels_leaves_the_queue(patient: tuple[LiveServer, grpc.Channel]) -> None:
    live, channel = patient
    call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer.future(shapes_request(), timeout=60)
    live.until(lambda status: status["inside"] == 1)
    call.cancel()
    live.until(lambda status: status["inside"] == 0)
    assert outcomes(live)["dropped"] == 1


def is_ready(stub: Any) -> bool:
    try:
        return bool(stub.ServerReady(service_pb2.ServerReadyRequest()).ready)
    except grpc.RpcError:  # it takes no more connections
        return False


def test_what_is_inside_is_answered_before_the_server_stops(slow: tuple[LiveServer, grpc.Channel]) -> None:
    live, channel = slow
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    with ThreadPoolExecutor(3) as pool:
        with standing_still(pid_of(live, "cpu0")):
            requests = [shapes_request(id=str(number)) for number in range(3)]
            inside: list[Future[Any]] = [pool.submit(stub.ModelInfer, request) for request in requests]
            live.until(lambda status: status["inside"] == 3)
            live.process.send_signal(signal.SIGTERM)
            until_holds(lambda: is_ready(stub), lambda ready: not ready)
            error: Any = refused(stub.ModelInfer, shapes_request())
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert [future.result().id for future in inside] == ["0", "1", "2"]
    assert live.process.wait(ANSWER_WITHIN_S) == 0


def test_tritonclient_is_told_of_its_timeout(patient: tuple[LiveServer, Any]) -> None:
    live, _ = patient
    given = triton.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(np.ones((1, 4), np.float32))
    with (
        triton.InferenceServerClient(f"127.0.0.1:{live.grpc_port}") as client,
        pytest.raises(InferenceServerException, match=r"DEADLINE_EXCEEDED|within \S+ ms: even an idle device needs"),
    ):
        client.infer("shapes", [given], client_timeout=0.001, timeout=LONG_US)
