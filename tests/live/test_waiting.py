"""A lone request waits for company until the last moment, and is then answered, however late the timer is."""

from pathlib import Path

import pytest
from live.live_server import serving
from tiny import TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace

pytestmark = pytest.mark.live

# So fast that any timer is late: between "one more could still fit" and "too late for one" lies a microsecond.
FAST = TinyFamily("shapes", (TinyVariant("fast", 0.9, hidden=4, first_s=20e-6, row_s=1e-6),), slo="1s")


def test_lone_requests_of_a_fast_model_are_answered(tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws", (FAST,))
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": "fast"})
    x = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}
    with serving(made.root, plan, "--no-replan") as live:
        replies = [live.infer("shapes", {"inputs": [x]}) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 200]
        assert {reply.document()["parameters"]["batch_size"] for reply in replies} == {1}
