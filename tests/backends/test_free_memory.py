"""A model that takes more memory than is free fails to load; the process, and what it served before, go on."""

import resource
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from tiny import INPUTS, mlp, save_model, tensor

from proteus_cli.backends.free_memory import free_bytes, within_free_memory
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device
from proteus_cli.errors import EngineError

CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))
MIB = 2**20


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proteus_cli.backends.free_memory.free_bytes", lambda: 100 * MIB)


def filling(path: Path, mib: int) -> Path:
    """A model that fills so much memory in each run."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["much"]),
        helper.make_node("ReduceMean", ["much"], ["mean"], keepdims=0),
        helper.make_node("Add", ["x", "mean"], ["scores"]),
    ]
    ends = [tensor("x", ["n", INPUTS])], [tensor("scores", ["n", INPUTS])]
    shape = np.array([mib * MIB // 4], np.int64)
    return save_model(path, nodes, inputs=ends[0], outputs=ends[1], weights={"shape": shape})


def limit() -> int:
    return resource.getrlimit(resource.RLIMIT_DATA)[0]


def run(model: Path) -> None:
    with OnnxRuntime(CPU).runner(model) as runner:
        runner.infer(runner.signature.sample(1, np.random.default_rng(0)))


@pytest.mark.usefixtures("little_memory")
def test_what_does_not_fit_fails_and_all_else_goes_on(tmp_path: Path) -> None:
    before = limit()
    with OnnxRuntime(CPU).runner(mlp(tmp_path / "small.onnx")) as small:
        sample = small.signature.sample(1, np.random.default_rng(0))
        with pytest.raises(EngineError, match=r"not enough memory for 300\.0 MiB"), within_free_memory("`m`"):
            run(filling(tmp_path / "m.onnx", 300))
        assert limit() == before
        small.infer(sample)
        with within_free_memory("`n`"):
            small.infer(sample)
            run(filling(tmp_path / "n.onnx", 20))


@pytest.mark.usefixtures("little_memory")
def test_memory_that_python_asks_for_is_bounded_too() -> None:
    with pytest.raises(EngineError, match="Not enough memory for `m`"), within_free_memory("`m`"):
        bytearray(300 * MIB)
    assert len(bytearray(300 * MIB)) == 300 * MIB


@pytest.mark.usefixtures("little_memory")
def test_loads_beside_each_other_end_in_any_order() -> None:
    before = limit()
    first, second = within_free_memory("1"), within_free_memory("2")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert limit() != before
    second.__exit__(None, None, None)
    assert limit() == before


def test_free_memory_is_part_of_what_the_machine_has() -> None:
    found = free_bytes()
    assert found is not None
    assert 0 < found < 2**50
