"""A server captures requests, and what becomes an eval split of them has the labels that clients told."""

from pathlib import Path

import numpy as np
import pytest
from command_line import proteus
from live_server import serving
from tiny import SHAPES, TinyFamily, add_plan, add_profiles, make_workspace, passing_on

pytestmark = pytest.mark.live

ROWS = np.random.default_rng(1).random((20, 4)).astype(np.float32)


def test_requests_with_labels_become_an_eval_split(tmp_path: Path) -> None:
    family = TinyFamily("shapes", SHAPES.variants[:1], slo="10s")
    made = make_workspace(tmp_path, (family,))
    passing_on(made.model("shapes-s"))
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": "shapes-s"}, demand_qps=1.0)
    options = ("--replan=off", "--set=samples=99.9999%", "--feedback=1min", f"--set=state={tmp_path / 'state'}")
    with serving(tmp_path, plan, *options, token="f00d" * 8) as live:
        for number, row in enumerate(ROWS):
            tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": row.tolist()}
            assert live.infer("shapes", {"id": f"r{number}", "inputs": [tensor]}).status == 200
        told = [{"model": "shapes", "id": f"r{number}", "label": number % 4} for number in range(10)]
        assert live.ask("POST", "/v2/proteus/feedback", {"feedback": told}).document()["accepted"] == 10
        assert 'proteus_samples_captured_total{family="shapes"} 20' in live.get("/metrics").body.decode()
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text(), live.log.read_text()
    there = ("--state", str(tmp_path / "state"), "-w", str(tmp_path))
    assert proteus("samples", "export", "shapes", "-o", tmp_path / "eval.npz", *there).code == 0
    with np.load(tmp_path / "eval.npz") as arrays:
        assert arrays["y"].tolist() == [number % 4 for number in range(10)]
        assert np.array_equal(arrays["x"], ROWS[:10])
    (listed,) = proteus("samples", "list", "--json", *there).document()
    assert (listed["requests"], listed["labelled"]) == (20, 10)
