"""More is asked for than the accurate variant can take: the fast one stands by, and is activated without a load."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, Reply, serving
from tiny import TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace

pytestmark = [pytest.mark.live, pytest.mark.alone, pytest.mark.extended]

# As profiled, the accurate variant takes 2 queries a second and the fast one 42; in truth both are far faster.
FAMILY = TinyFamily(
    "shapes",
    (
        TinyVariant("fast", 0.70, hidden=4, first_s=0.05, row_s=0.02),
        TinyVariant("accurate", 0.90, hidden=16, first_s=0.5, row_s=0.5),
    ),
    slo="3s",
)
RATE_QPS = 25
LONGEST_S = 30.0
X: dict[str, Any] = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.1, 0.2, 0.3, 0.4]}


def states(live: LiveServer) -> dict[str, int]:
    """Of each variant on cpu0: 2 active, 1 warm, 0 cold."""
    found = re.findall(r'proteus_variant_state\{.*variant="(\w+)".*\} (\d)', live.get("/metrics").body.decode())
    return {variant: int(state) for variant, state in found}


def test_a_burst_lowers_accuracy_and_loses_no_request(tmp_path: Path) -> None:
    made = make_workspace(tmp_path / "ws", (FAMILY,))
    add_profiles(made, ("cpu0",))
    plan = add_plan(made, {"cpu0": "accurate"}, demand_qps=1.0)
    replies: list[Reply] = []

    def variants() -> list[str]:
        return [reply.document()["parameters"]["variant"] for reply in replies if reply.status == 200]

    with serving(made.root, plan, "--set=log-format=json") as live, ThreadPoolExecutor(5 * RATE_QPS) as pool:

        def ask() -> None:
            replies.append(live.infer("shapes", {"inputs": [X]}))

        ask()
        assert variants() == ["accurate"]
        live.until(lambda status: status["devices"]["cpu0"]["warm"] == ["fast"])
        assert states(live) == {"accurate": 2, "fast": 1}
        asked, stop_s = [], time.monotonic() + LONGEST_S
        while "fast" not in variants() and time.monotonic() < stop_s:
            asked.append(pool.submit(ask))
            time.sleep(1 / RATE_QPS)
        for future in asked:
            future.result()

        status = live.status()
        assert "fast" in variants()
        assert (status["changes"][0]["swaps"], status["changes"][0]["activated"]) == (0, 1)
        assert states(live) == {"accurate": 1, "fast": 2}
        assert "shapes" in status["changes"][0]["reason"]
        assert [placement["variant"] for placement in status["placements"]] == ["fast"]
        assert {reply.status for reply in replies} == {200}
        outcomes = status["outcomes"]["shapes"]
        assert outcomes == dict.fromkeys(outcomes, 0) | {"served": len(replies)}
        assert live.stop() == 0
        lines = [json.loads(line) for line in live.log.read_text().splitlines()]
        assert not any("exception" in line for line in lines)
        change = next(line for line in lines if line["message"].startswith("new plan"))
        assert (change["level"], change["swaps"], change["hosts"]) == ("info", 0, {"cpu0": ["fast"]})
        assert change["reason"] == status["changes"][0]["reason"]
        assert 0 < change["solve_s"] < change["total_s"]
