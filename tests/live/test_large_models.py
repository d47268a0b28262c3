"""A model that asks for more memory than there is cannot be loaded; what is served already goes on."""

import signal
from pathlib import Path

import numpy as np
import pytest
from injecting import until_said
from live_server import serving
from onnx import helper
from tiny import CLASSES, INPUTS, Tiny, add_plan, add_profiles, save_model, tensor

pytestmark = pytest.mark.live

ONE_ROW = {
    "inputs": [{"name": "x", "shape": [1, INPUTS], "datatype": "FP32", "data": [1, 2, 3, 4]}],
    "parameters": {"timeout": 20_000_000},  # µs: the machine may be busy
}
TEBIBYTE_OF_FLOATS = 2**38


def asking_for_a_tebibyte(path: Path) -> None:
    """A model that needs that much in each run."""
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["much"]),
        helper.make_node("ReduceMean", ["much"], ["mean"], keepdims=0),
        helper.make_node("Add", ["x", "mean"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w"], ["scores"]),
    ]
    weights = {"shape": np.array([TEBIBYTE_OF_FLOATS]), "w": np.zeros((INPUTS, CLASSES), np.float32)}
    ends = [tensor("x", ["n", INPUTS])], [tensor("scores", ["n", CLASSES])]
    save_model(path, nodes, inputs=ends[0], outputs=ends[1], weights=weights)


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_plan_with_a_model_beyond_memory_is_not_put_in_force(tiny: Tiny, executor: str) -> None:
    asking_for_a_tebibyte(tiny.model("shapes-m"))
    add_profiles(tiny)
    plan = add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "tones-l"})
    with serving(tiny.root, plan, "--replan=off", f"--set=executor={executor}") as live:
        add_plan(tiny, {"cpu0": "shapes-m", "cpu1": "tones-l"})
        live.process.send_signal(signal.SIGHUP)
        until_said(live, "SIGHUP: kept the plan")
        assert "shapes-m.onnx`: not enough memory for 1.0 TiB" in live.log.read_text()
        for family in ("shapes", "tones"):
            assert live.infer(family, ONE_ROW).status == 200
        assert live.stop() == 0
