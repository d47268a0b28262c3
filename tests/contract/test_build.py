"""The real builder on the CPU: TensorRT-RTX has nearly the API of TensorRT 11, and builds without a GPU.

Its plans are not TensorRT's, and nothing here runs one.
"""

import ctypes
import importlib
import math
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from contract import downloads, figures
from contract.figures import ContractPart
from onnx import TensorProto, helper, numpy_helper
from tiny import keep_apart, mlp, save_model, tensor

from proteus_cli.backends.tensorrt import building
from proteus_cli.backends.tensorrt.building import build, key_of
from proteus_cli.backends.tensorrt.cache import EngineRequest, find_or_build
from proteus_cli.backends.tensorrt.progress import error_logger
from proteus_cli.backends.tensorrt.records import BuildOptions, Gpu
from proteus_cli.backends.tensorrt.timing_cache import timing_path
from proteus_cli.domain.catalog import ImageInput
from proteus_cli.errors import EngineError
from proteus_cli.store import Workspace
from proteus_cli.store.models.prepared_models import Preparation, prepared

# Its timing cache does nothing, as it tunes on the GPU later; it says so by a warning.
pytestmark = pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")

ZOO = Workspace(Path(__file__).parents[2])
MODELS = {
    variant.name: ZOO.model_path(variant.onnx)
    for family in ZOO.catalog().families
    for variant in family.variants
    if variant.onnx is not None
}
OPTIONS = BuildOptions(opt_batch=8, max_batch=32)
NO_GPU = Gpu(name="none", compute_capability="0.0", multiprocessors=1, driver="none")


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    """The bindings, with the libraries that they need. Fails where they can't be had."""
    place = downloads.rtx()
    for library in sorted((place / "tensorrt_rtx_libs").glob("*.so*")):
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    sys.path.append(str(place))
    bindings = importlib.import_module("tensorrt_rtx_bindings")
    figures.note(ContractPart.BUILD, "builder", f"TensorRT-RTX {bindings.__version__}, on the CPU")
    return bindings


@pytest.fixture(autouse=True)
def _as_tensorrt(rtx: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", rtx)


def go_on(_now: str, _done_frac: float) -> bool:
    return True


def built(model: Path, directory: Path, options: BuildOptions = OPTIONS) -> bytes:
    return build(model, options, directory, go_on)


def refused(model: Path, directory: Path, options: BuildOptions = OPTIONS) -> EngineError:
    """The error that building ends with; it names the model, says what to do, and leaves nothing."""
    with pytest.raises(EngineError) as caught:
        built(model, directory / "built", options)
    assert model.name in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert not list((directory / "built").glob("*"))
    return caught.value


def network(
    directory: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], **weights: Any
) -> Path:
    """An ONNX file that nobody has checked."""
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    path = directory / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


X, Y = tensor("x", ["n", 4]), tensor("y", ["n", 4])


# --- what can be built


@pytest.mark.parametrize("variant", MODELS)
def test_the_sample_zoo_builds(variant: str, tmp_path: Path) -> None:
    told: list[float] = []

    def follow(_now: str, done_frac: float) -> bool:
        told.append(done_frac)
        return True

    plan = build(MODELS[variant], OPTIONS, tmp_path, follow)
    assert len(plan) > 1000
    assert told == sorted(told)
    assert 0.0 <= told[0] <= told[-1] <= 1.0
    assert timing_path(tmp_path) == tmp_path / f"timing-{downloads.RTX}.cache"
    assert timing_path(tmp_path).stat().st_size > 0
    figures.tell(ContractPart.BUILD, "variants of the sample zoo built", variant, of=len(MODELS))


def test_a_variant_in_fp16_is_built_as_its_file_says(tmp_path: Path) -> None:
    weights = np.ones((4, 4), np.float16)
    ends = [tensor("x", ["n", 4], TensorProto.FLOAT16)], [tensor("y", ["n", 4], TensorProto.FLOAT16)]
    model = network(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], *ends, w=weights)
    assert built(model, tmp_path)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize("shape", [(3, 8, 6), (3, 9, 7), (5, 4, 3)], ids=str)
def test_a_model_that_is_prepared_for_pixels_is_built(shape: tuple[int, int, int], kind: int, tmp_path: Path) -> None:
    ends = [tensor("x", ["n", *shape], kind)], [tensor("y", ["n", math.prod(shape)], kind)]
    model = network(tmp_path, [helper.make_node("Flatten", ["x"], ["y"])], *ends)
    pixels = ImageInput(size=(8, 6), scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    assert built(prepared(model, Preparation(pixels), tmp_path / "prepared"), tmp_path)


def test_external_data_beside_the_model_is_found(tmp_path: Path) -> None:
    assert built(with_external_data(tmp_path), tmp_path)


def test_other_options_make_another_plan(tmp_path: Path, rtx: ModuleType) -> None:
    """The batch sizes reach the builder: its plan holds them."""
    model = MODELS["digits-s"]
    plans = {built(model, tmp_path, BuildOptions(opt_batch=8, max_batch=most)) for most in (32, 64)}
    assert len(plans) == 2


def test_a_hardware_compatible_engine_can_be_asked_for(tmp_path: Path) -> None:
    """What comes of it shows only with TensorRT itself: this builder's engines are compatible anyway."""
    assert built(MODELS["digits-xs"], tmp_path, BuildOptions(opt_batch=8, max_batch=32, hardware_compatible=True))


# --- what can't


GARBAGE = [
    b"",
    b"hello",
    b"\x08",
    bytes(1000),
    MODELS["digits-s"].read_bytes()[:3000],
    MODELS["digits-s"].read_bytes()[:-1],
]


@pytest.mark.parametrize("content", GARBAGE, ids=["empty", "text", "one byte", "zeros", "half", "all but a byte"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(content)
    assert "is it a complete ONNX file" in refused(model, tmp_path).hint


def test_a_model_that_is_gone_is_refused(tmp_path: Path) -> None:
    assert "can't read" in refused(tmp_path / "gone.onnx", tmp_path).message


def with_external_data(directory: Path) -> Path:
    path = mlp(directory / "m.onnx")
    keep_apart(path, "m.onnx.data")
    assert (directory / "m.onnx.data").stat().st_size > 0
    return path


def test_external_data_that_is_missing_or_short_is_named(tmp_path: Path) -> None:
    model, data = with_external_data(tmp_path), tmp_path / "m.onnx.data"
    data.write_bytes(b"short")
    assert "m.onnx.data" in refused(model, tmp_path).message
    data.unlink()
    assert "m.onnx.data" in refused(model, tmp_path).message


@pytest.mark.parametrize(
    ("name", "operator", "domain", "node"),
    [
        ("the odd one", "Frobnicate", "com.acme", "node `the odd one` (Frobnicate)"),
        ("", "Frobnicate", "", "node 1 (Frobnicate)"),
        ("distinct", "Unique", "", "node `distinct` (Unique)"),
    ],
)
def test_an_operator_that_tensorrt_lacks_is_named(
    name: str, operator: str, domain: str, node: str, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node(operator, ["h"], ["y"], name=name, domain=domain),
    ]
    error = refused(network(tmp_path, nodes, [X], [Y]), tmp_path)
    assert node in error.message
    assert "other operators" in error.hint


def test_a_node_that_is_invalid_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="too tall")
    error = refused(network(tmp_path, [node], [X], [Y], w=np.ones((5, 4), np.float32)), tmp_path)
    assert "node `too tall` (MatMul)" in error.message
    assert "must match" in error.message
    assert ".cpp" not in error.message


def test_types_are_not_converted_silently(tmp_path: Path) -> None:
    """Networks are strongly typed: precision is what the file says."""
    node = helper.make_node("Add", ["x", "w"], ["y"], name="adds")
    error = refused(network(tmp_path, [node], [X], [Y], w=np.ones(4, np.float16)), tmp_path)
    assert "node `adds` (Add)" in error.message
    assert "types" in error.message


def test_a_tensor_of_strings_is_refused(tmp_path: Path) -> None:
    ends = [tensor("x", ["n", 4], TensorProto.STRING)], [tensor("y", ["n", 4], TensorProto.STRING)]
    assert "type" in refused(network(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], *ends), tmp_path).message


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ([1, 4], "`x` of .* has no dynamic batch axis"),
        ([], "`x` of .* has no dynamic batch axis"),
        (["n", "m"], "`x` of .* has a dynamic axis besides the batch"),
        (["n", None], "`x` of .* has a dynamic axis besides the batch"),
    ],
)
def test_a_model_that_cannot_be_batched_is_refused(shape: Sequence[Any], problem: str, tmp_path: Path) -> None:
    model = network(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], [tensor("x", shape)], [tensor("y", shape)])
    with pytest.raises(EngineError, match=problem):
        raise refused(model, tmp_path)


def test_an_output_without_a_batch_axis_is_refused(tmp_path: Path) -> None:
    model = network(tmp_path, [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], [X], [tensor("y", [])])
    assert "`y` of" in refused(model, tmp_path).message


def test_a_model_that_cannot_take_every_batch_is_refused_with_the_node(tmp_path: Path) -> None:
    """It parses, as any multiple of 3 rows would do; that the profile allows others, only the builder finds out."""
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], name="in threes")
    model = network(tmp_path, [node], [X], [tensor("y", ["n", 3])], shape=np.array([-1, 3]))
    error = refused(model, tmp_path)
    assert "in threes" in error.message
    assert "every batch" in error.hint


def test_a_workspace_that_is_too_small_is_named(tmp_path: Path) -> None:
    error = refused(MODELS["digits-l"], tmp_path, BuildOptions(opt_batch=8, max_batch=32, workspace_bytes=1))
    assert error.hint == "allow a larger workspace"


def test_an_error_keeps_nothing_of_tensorrt_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its objects would be freed by whoever drops the error, at any time and on any thread, which could stop a build.

    The builder keeps its logger, so where no logger is left, nothing is.
    """
    loggers: list[weakref.ref[Any]] = []

    def remembered(errors: list[str]) -> Any:
        logger = error_logger(errors)
        loggers.append(weakref.ref(logger))
        return logger

    monkeypatch.setattr(building, "error_logger", remembered)
    assert built(MODELS["digits-xs"], tmp_path)
    for model in (tmp_path / "gone.onnx", MODELS["digits-l"]):
        error = refused(model, tmp_path, BuildOptions(opt_batch=8, max_batch=32, workspace_bytes=1))
        assert error.__traceback__ is not None
        assert [logger() for logger in loggers] == [None] * len(loggers)
    assert len(loggers) == 3


# --- cancelling


def deep(directory: Path, layers: int = 100) -> Path:
    """A model that takes a second and more to build."""
    rng = np.random.default_rng(0)
    weights = {f"w{layer}": rng.standard_normal((64, 64)).astype(np.float32) for layer in range(layers)}
    names = ["x", *(f"h{layer}" for layer in range(1, layers)), "y"]
    nodes = []
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [names[layer], f"w{layer}"], [f"m{layer}"]))
        nodes.append(helper.make_node("Softmax" if layer % 2 else "Erf", [f"m{layer}"], [names[layer + 1]]))
    ends = [tensor("x", ["n", 64])], [tensor("y", ["n", 64])]
    return save_model(directory / "deep.onnx", nodes, inputs=ends[0], outputs=ends[1], weights=weights)


def test_a_build_is_cancelled_and_leaves_nothing(tmp_path: Path) -> None:
    model, asked = deep(tmp_path), 0

    def until_third_time(_now: str, _done_frac: float) -> bool:
        nonlocal asked
        asked += 1
        return asked < 3

    with pytest.raises(EngineError, match="was cancelled"):
        build(model, OPTIONS, tmp_path / "built", until_third_time)
    assert asked >= 3
    assert not (tmp_path / "built").exists()


def test_an_error_in_the_progress_is_raised_and_ends_the_build(tmp_path: Path) -> None:
    def fail(_now: str, _done_frac: float) -> bool:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="the terminal is gone"):
        build(deep(tmp_path), OPTIONS, tmp_path / "built", fail)
    assert not (tmp_path / "built").exists()


# --- the timing cache and the cache of engines


def test_a_timing_cache_that_is_not_one_is_replaced(tmp_path: Path) -> None:
    """This builder keeps no timings, but reads and writes the file as TensorRT does."""
    built(MODELS["digits-xs"], tmp_path)
    sound = timing_path(tmp_path).read_bytes()
    for content in (b"garbage", b"", sound[:-1], bytes(10_000)):
        timing_path(tmp_path).write_bytes(content)
        built(MODELS["digits-xs"], tmp_path)
        assert timing_path(tmp_path).read_bytes() == sound


def test_an_engine_is_built_once_and_again_where_its_key_changes(tmp_path: Path) -> None:
    model, said = mlp(tmp_path / "m.onnx"), list[str]()

    def get(options: BuildOptions) -> bytes:
        wanted = EngineRequest("none", "a", "a-s", key_of(model, NO_GPU, options))
        found = find_or_build(
            tmp_path / "built", wanted, lambda _: built(model, tmp_path / "built" / "none", options), said.append
        )
        return found.plan.read_bytes()

    assert get(OPTIONS) == get(OPTIONS)
    get(BuildOptions(opt_batch=8, max_batch=64))
    mlp(model, hidden=9)
    get(BuildOptions(opt_batch=8, max_batch=64))
    assert [line.partition(": ")[2] for line in said] == ["there is none yet", "largest batch 32 → 64", "another model"]
