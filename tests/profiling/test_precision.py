"""`proteus catalog precision`: the same model in FP16, as a variant of its own."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from command_line import files, proteus
from tiny import CLASSES, INPUTS, Tiny, mlp

from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device

CALL = ("catalog", "precision", "shapes-m", "--to", "fp16")
CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))


def refused(tiny: Tiny, *arguments: str, code: int = 2) -> str:
    before = files(tiny.root)
    message = proteus(*arguments, "-w", tiny.root).refused(code)
    assert files(tiny.root) == before
    return message


def outputs(model: Path, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    with OnnxRuntime(CPU).runner(model) as runner:
        return runner.infer({"x": x})["scores"]


def test_the_new_variant_computes_in_half_precision_with_the_same_tensors(tiny: Tiny) -> None:
    big = mlp(tiny.model("shapes-m"), hidden=512, seed=3)
    made = proteus(*CALL, "--json", "-w", tiny.root).document()
    assert (made["family"], made["variant"], made["onnx"]) == (
        "shapes",
        "shapes-m-fp16",
        "models/shapes/shapes-m-fp16.onnx",
    )
    half = big.with_name("shapes-m-fp16.onnx")
    assert made["size_bytes"] == half.stat().st_size < 0.6 * made["size_before_bytes"]
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(half).graph.initializer}
    assert set(weights.values()) == {onnx.TensorProto.FLOAT16}
    with OnnxRuntime(CPU).runner(big) as before, OnnxRuntime(CPU).runner(half) as after:
        assert before.signature == after.signature
    x = np.random.default_rng(0).random((16, INPUTS)).astype(np.float32)
    full, rounded = outputs(big, x), outputs(half, x)
    assert rounded.shape == (16, CLASSES)
    assert rounded == pytest.approx(full, rel=0.02, abs=0.05)
    assert not np.array_equal(full, rounded)


def test_it_is_in_the_catalog_with_its_measured_accuracy(tiny: Tiny) -> None:
    made = proteus(*CALL, "--json", "-w", tiny.root).document()
    variants = tiny.place.catalog().family("shapes").variants
    assert [variant.name for variant in variants] == ["shapes-s", "shapes-m", "shapes-m-fp16", "shapes-l"]
    assert variants[2].accuracy == round(made["accuracy"], 4)
    assert 0 < made["accuracy"] == pytest.approx(made["accuracy_before"], abs=0.1)


def test_it_can_be_profiled_and_planned(tiny: Tiny) -> None:
    assert proteus(*CALL, "-w", tiny.root).code == 0
    assert proteus("profile", "--device", "cpu0", "--max-batch", "1", "--budget", "1s", "-w", tiny.root).code == 0
    profiled = tiny.place.profile("cpu0").of("shapes", "shapes-m-fp16")
    assert profiled is not None
    assert profiled.points


def test_a_variant_may_be_named_with_its_family(tiny: Tiny) -> None:
    assert proteus("catalog", "precision", "shapes/shapes-s", "--to", "fp16", "-w", tiny.root).code == 0
    assert tiny.place.catalog().family("shapes").variant("shapes-s-fp16")


def test_what_is_there_already_is_not_made_again(tiny: Tiny) -> None:
    assert proteus(*CALL, "-w", tiny.root).code == 0
    assert "has a variant `shapes-m-fp16` already" in refused(tiny, *CALL)
    half = ("catalog", "precision", "shapes-m-fp16", "--to", "fp16")
    assert "holds no weights in FP32" in refused(tiny, *half)


def test_a_file_that_stands_in_the_way_is_left_alone(tiny: Tiny) -> None:
    tiny.model("shapes-m").with_name("shapes-m-fp16.onnx").write_bytes(b"mine")
    assert "is there already" in refused(tiny, *CALL)


def test_without_an_eval_split_there_is_no_accuracy_to_give(tiny: Tiny) -> None:
    assert "no eval split" in refused(tiny, "catalog", "precision", "tones-s", "--to", "fp16")


def test_a_variant_that_is_not_there_is_refused_with_those_that_are(tiny: Tiny) -> None:
    ended = proteus("catalog", "precision", "shapes-xl", "--to", "fp16", "-w", tiny.root)
    assert ended.refused() == "No variant `shapes-xl` in the catalog."
    assert "shapes-s, shapes-m, shapes-l" in ended.stderr


def test_a_broken_model_is_refused(tiny: Tiny) -> None:
    tiny.model("shapes-m").write_bytes(b"\x08\x01not a model")
    assert "shapes-m.onnx`" in refused(tiny, *CALL, code=1)


def test_another_precision_is_none_of_ours(tiny: Tiny) -> None:
    assert "fp16" in proteus(*CALL[:-1], "int8", "-w", tiny.root).misused()
