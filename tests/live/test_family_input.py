"""A family of image models of different sizes and layouts is measured, planned and served with one UINT8 tensor."""

import re
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from command_line import proteus
from live_server import LiveServer, serving
from onnx import TensorProto, helper
from PIL import Image
from tiny import save_model, tensor
from tritonclient import grpc, http
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.live

CATALOG = """
format = 1

[[family]]
name = "colours"
slo = "60s"
eval = "eval.npz"
labels = "labels.txt"

[family.input]
size = [8, 6]
scale = 0.00392156862745098
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.25, 0.5]

[[family.variant]]
name = "first"
accuracy = 0.5
onnx = "first.onnx"

[[family.variant]]
name = "last"
accuracy = 0.6
onnx = "last.onnx"
"""
LABELS = ("red", "green", "blue")
MEAN, STD = np.array([0.5, 0.5, 0.5]), np.array([0.5, 0.25, 0.5])
RIGHT, ROWS = 30, 40


def mean_of_channels(path: Path, shape: tuple[int | str, ...], axes: list[int], kind: int, name: str) -> None:
    """Scores are the mean of each channel."""
    nodes = [helper.make_node("ReduceMean", [name], ["scores"], axes=axes, keepdims=0)]
    save_model(path, nodes, inputs=[tensor(name, shape, kind)], outputs=[tensor("scores", ["n", 3], kind)])


def images(colours: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Of one colour each, so that no size changes the mean."""
    return np.ascontiguousarray(np.broadcast_to(colours[:, None, None, :], (len(colours), 8, 6, 3)), np.uint8)


def scores(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = ((pixels / 255 - MEAN) / STD).mean(axis=(1, 2))
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Neither variant takes what clients send, nor what the other one takes."""
    root = tmp_path_factory.mktemp("colours")
    engines = root / "engines"
    engines.mkdir()
    (engines / "catalog.toml").write_text(CATALOG)
    (engines / "labels.txt").write_text("\n".join(LABELS))
    mean_of_channels(engines / "first.onnx", ("n", 3, 8, 6), [2, 3], TensorProto.FLOAT, "x")
    mean_of_channels(engines / "last.onnx", ("n", 5, 7, 3), [1, 2], TensorProto.FLOAT, "pixels")
    x = images(np.random.default_rng(0).integers(0, 256, (ROWS, 3)))
    y = scores(x).argmax(axis=1)
    y[RIGHT:] = (y[RIGHT:] + 1) % 3
    np.savez(engines / "eval.npz", x=x, y=y)
    (root / "proteus.toml").write_text("[devices]\ncpu = [[0]]\n")
    measured = proteus("profile", "--device", "cpu0", "--budget", "1s", "-w", root)
    assert measured.code == 0, measured
    return root


def profile(root: Path) -> Any:
    return msgspec.json.decode((root / "profiles" / "cpu0.json").read_bytes())


def test_accuracies_are_those_of_the_pixels_that_clients_send(root: Path) -> None:
    assert [each["accuracy"] for each in profile(root)["variants"]] == [RIGHT / ROWS] * 2
    assert len(list((root / "engines" / "prepared").iterdir())) == 2


@pytest.fixture(scope="module", params=["first", "last"])
def server(root: Path, request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    other = {"first": "last", "last": "first"}[request.param]
    plan = root / "plans" / f"{request.param}.json"
    made = proteus("plan", "--demand", "1qps", f"--rule=ban cpu0:{other}", "-o", plan, "-w", root)
    assert made.code == 0, made
    with serving(root, plan, "--replan=off", "--grpc-port", "0") as live:
        yield live
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text()


@pytest.fixture(params=[http, grpc], ids=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: LiveServer) -> Iterator[Any]:
    port = server.port if request.param is http else server.grpc_port
    with request.param.InferenceServerClient(f"127.0.0.1:{port}") as made:
        made.library = request.param
        yield made


def inputs(library: Any, pixels: npt.NDArray[Any], datatype: str = "UINT8") -> list[Any]:
    given = library.InferInput("image", list(pixels.shape), datatype)
    given.set_data_from_numpy(pixels)
    return [given]


def test_clients_send_pixels_whichever_variant_answers(client: Any) -> None:
    pixels = images(np.array([[250, 10, 30], [0, 200, 255]]))
    answer = client.infer("colours", inputs(client.library, pixels))
    np.testing.assert_allclose(answer.as_numpy("scores"), scores(pixels), rtol=1e-3, atol=1e-3)
    wanted = [client.library.InferRequestedOutput("scores", class_count=1)]
    best = client.infer("colours", inputs(client.library, pixels), outputs=wanted).as_numpy("scores")
    assert [text.decode().rpartition(":")[2] for text in best.ravel()] == ["red", "green"]


def image_file(colour: tuple[int, int, int], kind: str) -> bytes:
    made = BytesIO()
    Image.new("RGB", (64, 48), colour).save(made, kind)
    return made.getvalue()


def files(library: Any, *each: bytes) -> list[Any]:
    given = library.InferInput("image", [len(each), 1], "BYTES")
    given.set_data_from_numpy(np.array(each, np.object_).reshape(-1, 1))
    return [given]


def outcomes(server: LiveServer) -> tuple[float, float]:
    """Requests that ended in an outcome, and those that were refused."""
    lines = server.get("/metrics").body.decode().splitlines()
    return tuple(  # type: ignore[return-value]
        sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))
        for name in ("proteus_requests_total{", "proteus_refused_requests_total{")
    )


def test_clients_may_send_image_files(client: Any) -> None:
    colours = (250, 10, 30), (0, 200, 255)
    sent = [image_file(colour, kind) for colour, kind in zip(colours, ("PNG", "JPEG"), strict=True)]
    answer = client.infer("colours", files(client.library, *sent))
    np.testing.assert_allclose(answer.as_numpy("scores"), scores(images(np.array(colours))), atol=0.05)


def test_image_files_may_be_much_larger_than_the_familys_pixels(client: Any) -> None:
    large = image_file((250, 10, 30), "PNG") + bytes(2**21)  # what follows an image is not read
    answer = client.infer("colours", files(client.library, large))
    np.testing.assert_allclose(answer.as_numpy("scores"), scores(images(np.array([[250, 10, 30]]))), atol=0.05)


def test_image_files_and_pixels_may_come_in_turn(client: Any) -> None:
    for _ in range(3):
        expected = scores(images(np.array([[250, 10, 30]])))
        for given in (
            files(client.library, image_file((250, 10, 30), "PNG")),
            inputs(client.library, images(np.array([[250, 10, 30]]))),
        ):
            found = client.infer("colours", given).as_numpy("scores")
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_a_bad_image_ends_its_request_once_and_no_other(client: Any, server: LiveServer) -> None:
    ended, refused = outcomes(server)
    good = image_file((250, 10, 30), "PNG")
    for bad, problem in (
        (b"hello", "is neither JPEG nor PNG"),
        (good[: len(good) // 2], "is damaged"),
        (b"", "is neither"),
    ):
        with pytest.raises(InferenceServerException, match=f"image 1 of input `image` {problem}"):
            client.infer("colours", files(client.library, good, bad))
    client.infer("colours", files(client.library, good))
    assert outcomes(server) == (ended + 1, refused + 3)


def test_images_are_refused_in_json(server: LiveServer) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["iVBORw0KGgo="]}
    answer = server.infer("colours", msgspec.json.encode({"inputs": [tensor]}))
    assert (answer.status, "not taken in JSON" in answer.document()["error"]) == (400, True)


@pytest.mark.parametrize(("kind", "media_type"), [("PNG", "image/png"), ("JPEG", "Image/JPEG")])
def test_a_body_may_be_an_image_file(server: LiveServer, kind: str, media_type: str) -> None:
    answer = server.infer("colours", image_file((250, 10, 30), kind), {"Content-Type": media_type})
    assert answer.status == 200, answer
    found = np.array(answer.document()["outputs"][0]["data"])
    np.testing.assert_allclose(found, scores(images(np.array([[250, 10, 30]])))[0], atol=0.05)


def test_a_body_that_is_a_bad_image_is_refused(server: LiveServer) -> None:
    answer = server.infer("colours", b"hello", {"Content-Type": "image/jpeg"})
    assert (answer.status, "image 0 of input `image` is neither" in answer.document()["error"]) == (400, True)


def test_the_family_is_described_as_clients_see_it(server: LiveServer) -> None:
    assert server.get("/v2/models/colours").document()["inputs"] == [
        {"name": "image", "datatype": "UINT8", "shape": [-1, 8, 6, 3]}
    ]


@pytest.mark.parametrize(
    ("pixels", "datatype", "problem"),
    [
        (np.zeros((1, 8, 6, 3), np.float32), "FP32", "must have datatype UINT8; got FP32"),
        (np.zeros((1, 3, 8, 6), np.uint8), "UINT8", r"must have shape \[rows, 8, 6, 3\]"),
        (np.zeros((1, 5, 7, 3), np.uint8), "UINT8", r"must have shape \[rows, 8, 6, 3\]"),
        (np.zeros((0, 8, 6, 3), np.uint8), "UINT8", "with rows ≥ 1"),
    ],
)
def test_what_is_none_of_the_familys_tensors_is_refused(
    client: Any, pixels: npt.NDArray[Any], datatype: str, problem: str
) -> None:
    with pytest.raises(InferenceServerException, match=problem):
        client.infer("colours", inputs(client.library, pixels, datatype))


def test_another_description_makes_profiles_stale(root: Path) -> None:
    catalog = root / "engines" / "catalog.toml"
    before = catalog.read_text()
    catalog.write_text(before.replace("size = [8, 6]", "size = [8, 7]"))
    try:
        said = proteus("plan", "--demand", "1qps", "-w", root).refused(2)
    finally:
        catalog.write_text(before)
    assert "was measured with another `first.onnx` or another `[family.input]`" in said


def test_with_a_state_directory_models_are_prepared_there(root: Path, tmp_path: Path) -> None:
    """Nothing is written to the workspace, neither by the plan."""
    ws, state, plan = tmp_path / "ws", tmp_path / "state", tmp_path / "plan.json"
    shutil.copytree(root, ws, ignore=shutil.ignore_patterns("prepared", "plans"))
    before = sorted(ws.rglob("*"))
    assert proteus("plan", "--demand", "1qps", "-o", plan, "-w", ws).code == 0
    with serving(ws, plan, "--replan=off", f"--set=state={state}") as live:
        assert live.get("/v2/models/colours").document()["inputs"][0]["shape"] == [-1, 8, 6, 3]
    assert len(list((state / "engines" / "prepared").iterdir())) == 2
    assert sorted(ws.rglob("*")) == before


def test_emulated_devices_take_the_familys_tensor(root: Path, tmp_path: Path) -> None:
    """Models are prepared to read what they take, and not kept."""
    ws, plan = tmp_path / "ws", tmp_path / "plan.json"
    shutil.copytree(root, ws, ignore=shutil.ignore_patterns("prepared", "plans"))
    before = sorted(ws.rglob("*"))
    assert proteus("plan", "--demand", "1qps", "-o", plan, "-w", ws).code == 0
    with serving(ws, plan, "--emulate", "--replan=off", "--set=plan-history=0") as live:
        assert live.get("/v2/models/colours").document()["inputs"][0]["shape"] == [-1, 8, 6, 3]
    assert sorted(ws.rglob("*")) == before


def test_a_family_without_models_takes_the_made_up_tensor_and_no_images(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "w", ignore=shutil.ignore_patterns("*.onnx", "plans"))
    catalog, plan = tmp_path / "w" / "engines" / "catalog.toml", tmp_path / "w" / "plans" / "p.json"
    catalog.write_text(re.sub(r"onnx = .*\n", "", catalog.read_text()))
    assert proteus("plan", "--demand", "1qps", "-o", plan, "-w", tmp_path / "w").code == 0
    with serving(tmp_path / "w", plan, "--emulate", "--replan=off") as live:
        (taken,) = live.get("/v2/models/colours").document()["inputs"]
        assert taken == {"name": "x", "datatype": "FP32", "shape": [-1, 1]}
        with http.InferenceServerClient(f"127.0.0.1:{live.port}") as client:
            given = http.InferInput("x", [1], "BYTES")
            given.set_data_from_numpy(np.array([image_file((1, 2, 3), "PNG")], np.object_))
            with pytest.raises(InferenceServerException, match="must have datatype FP32"):
                client.infer("colours", [given])
