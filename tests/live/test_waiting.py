"""A lone request waits for company until the last moment, and is then answered, however late the timer is."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from live_server import serving
from tiny import TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace

from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device

pytestmark = [pytest.mark.live, pytest.mark.alone]

# So fast that any timer is late: between "one more could still fit" and "too late for one" lies a microsecond.
FAST = TinyFamily("shapes", (TinyVariant("fast", 0.9, hidden=4, first_s=20e-6, row_s=1e-6),), slo="1s")


CPU = Device("cpu0", "cpu-1c", "cpu", "a CPU", 2**30, cores=(0,))


def tensor_of(rows: npt.NDArray[Any]) -> dict[str, Any]:
    return {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.tolist()}


def test_requests_that_share_a_batch_are_answered_with_their_own_rows(tmp_path: Path) -> None:
    """A full batch of three requests, of 1, 2 and 5 rows."""
    made = make_workspace(tmp_path / "ws", (FAST,))
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": "fast"})
    rng = np.random.default_rng(0)
    asked = [rng.random((rows, 4)).astype(np.float32) for rows in (1, 2, 5)]
    with serving(made.root, plan, "--replan=off", "--set=batching=proactive") as live, ThreadPoolExecutor(3) as pool:
        bodies = [{"inputs": [tensor_of(rows)], "parameters": {"timeout": 60_000_000}} for rows in asked]
        replies = list(pool.map(lambda body: live.infer("shapes", body), bodies))

    with OnnxRuntime(CPU).runner(made.model("fast")) as runner:
        for rows, reply in zip(asked, replies, strict=True):
            assert reply.document()["parameters"]["batch_size"] == 8
            (scores,) = reply.document()["outputs"]
            expected = runner.infer({"x": rows})["scores"]
            np.testing.assert_allclose(np.reshape(scores["data"], scores["shape"]), expected, rtol=1e-4, atol=1e-6)


def test_lone_requests_of_a_fast_model_are_answered(tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws", (FAST,))
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": "fast"})
    x = tensor_of(np.array([[0.1, 0.2, 0.3, 0.4]]))
    with serving(made.root, plan, "--replan=off", "--set=batching=proactive") as live:
        replies = [live.infer("shapes", {"inputs": [x]}) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 200]
        assert {reply.document()["parameters"]["batch_size"] for reply in replies} == {1}
