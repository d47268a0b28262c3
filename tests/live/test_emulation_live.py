"""A cluster of eight devices that isn't there, behind the real front ends: what it answers, and how that is marked."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tritonclient.grpc
from clusters import ACCURACY, make_cluster
from collector import Collector, collecting, named
from command_line import proteus_process
from live_server import LiveServer, Reply, serving

from proteus_cli.cli.simulating import Scenario, simulated
from proteus_cli.control.policies import PROTEUS
from proteus_cli.domain.report import Report
from proteus_cli.replay.trace import read_trace
from proteus_cli.reporting.html_page import page
from proteus_cli.simulation.conditions import Conditions
from proteus_cli.store import Workspace

pytestmark = [pytest.mark.live, pytest.mark.alone]

CALM_QPS, PEAK_QPS = 30, 200  # the most accurate variants carry 115
PEAK_S, PEAK_END_S = 2.0, 7.0
IN_TIME_S = PEAK_END_S - 2.0  # a plan that is there by then still answers some of the peak
OUTCOMES = ("served", "late", "dropped", "rejected", "failed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_cluster(tmp_path_factory.mktemp("emulated") / "ws", f"{CALM_QPS}qps")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def server(cluster: Workspace, collector: Collector) -> Iterator[LiveServer]:
    """The cluster with a device more than the plan knows, which stays as it is planned; all requests are traced."""
    emulated = ("--emulate", "--fleet", "a:4,b:2,c:3", "--replan=off", "--grpc-port", "0")
    with serving(cluster.root, Path("plan"), *emulated, f"--set=otlp={collector.url}", "--set=otlp-sample=1") as live:
        yield live
        assert live.stop() == 0
        assert "Traceback" not in live.log.read_text()


def ask(live: LiveServer, family: str, value: float) -> Reply:
    x = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}
    return live.infer(family, {"inputs": [x]})


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evenly, of both families: 2 s of calm, 5 s of more than the best can take, and calm again."""
    path = tmp_path_factory.mktemp("trace") / "rise.csv"
    arrivals, now_s = list[str](), 0.0
    for until_s, qps in ((PEAK_S, CALM_QPS), (PEAK_END_S, PEAK_QPS), (9.0, CALM_QPS)):
        while now_s < until_s:
            arrivals.append(f"{now_s:.4f},{('text', 'image')[len(arrivals) % 2]}\n")
            now_s += 1 / qps
    path.write_text("arrival_s,family\n" + "".join(arrivals))
    return path


def test_answers_come_from_where_the_plan_says_and_differ_by_variant_and_row(
    cluster: Workspace, server: LiveServer
) -> None:
    planned = {(p.device, p.variant): p.family for p in cluster.plan(Path("plan")).placements}
    scores: dict[tuple[str, float], list[float]] = {}
    for number in range(40):
        family, value = ("text", "image")[number % 2], float(number // 10)
        answer = ask(server, family, value).document()
        said, (output,) = answer["parameters"], answer["outputs"]
        assert said["emulated"] is True
        assert planned[said["device"], said["variant"]] == family
        assert said["accuracy"] == ACCURACY[family][said["variant"]]
        assert (output["name"], output["shape"]) == ("y", [1, 10])
        assert scores.setdefault((said["variant"], value), output["data"]) == output["data"]
    assert len({tuple(row) for row in scores.values()}) == len(scores) >= 8


def test_all_that_the_server_says_is_marked(server: LiveServer) -> None:
    assert server.said.split()[-1] == "emulated"
    assert "WARNING proteus.server: devices are emulated" in server.log.read_text()
    status = server.status()
    assert status["emulated"] is True
    assert set(status["pace"]) == {"a-0", "a-1", "a-2", "a-3", "b-0", "b-1", "c-0", "c-1", "c-2"}
    assert re.search(r"^proteus_emulated 1\.0$", server.get("/metrics").body.decode(), re.MULTILINE)
    metadata = server.get("/v2/models/text").document()
    assert metadata["platform"] == "proteus_emulated"
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]
    config = server.get("/v2/models/text/config").document()
    assert config["platform"] == config["backend"] == "proteus_emulated"
    assert config["parameters"]["emulated"] == {"string_value": "true"}
    assert config["parameters"]["signature"] == {"string_value": "stub"}


def test_it_is_marked_over_grpc_too(server: LiveServer) -> None:
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        assert client.get_model_metadata("image").platform == "proteus_emulated"
        config = client.get_model_config("image").config
        assert config.parameters["signature"].string_value == "stub"
        assert len(config.instance_group) > 0
        x = tritonclient.grpc.InferInput("x", [2, 1], "FP32")
        x.set_data_from_numpy(np.zeros((2, 1), np.float32))
        answer = client.infer("image", [x])
        assert answer.get_response().parameters["emulated"].bool_param is True
        assert answer.as_numpy("y").shape == (2, 10)


def test_its_traces_are_marked(server: LiveServer, collector: Collector) -> None:
    assert ask(server, "text", 0.5).status == 200
    spans = collector.until(lambda spans: {"batch", "compute"} <= {span.name for span in spans})
    batches = [named(span.attributes) for span in spans if span.name == "batch"]
    assert all(batch["proteus.emulated"] is True for batch in batches)


@pytest.fixture(scope="module")
def emulated(cluster: Workspace, trace: Path) -> Any:
    """The report of a replay for which the cluster is started."""
    ended = proteus_process("replay", trace, "--serve", "plan", "--emulate", "--json", "-w", cluster.root)
    return ended.document()


def test_a_rise_of_demand_changes_the_plan_and_each_request_ends_once(emulated: Any) -> None:
    assert emulated["mode"] == "emulated"
    assert emulated["requests"] == sum(emulated[outcome] for outcome in OUTCOMES) > 1000
    assert emulated["failed"] == 0
    assert sum(change["swaps"] for change in emulated["replans"]) >= 1
    answered = Counter[str]()
    for device in emulated["devices"].values():
        for variants in device["answers_by_variant"].values():
            answered.update(variants)
    assert emulated["served"] <= answered.total() <= emulated["served"] + emulated["late"]  # 504 names no variant
    is_in_time = any(change["at_s"] < IN_TIME_S and change["swaps"] for change in emulated["replans"])
    assert any(answered[f"{family}-{size}"] for family in ACCURACY for size in "sm") or not is_in_time
    assert all(answered[f"{family}-l"] for family in ACCURACY)


def test_what_the_plans_in_force_expected_stands_in_the_report(emulated: Any) -> None:
    expected = [family["expected_attainment"] for family in emulated["families"].values() if family["requests"]]
    assert expected
    assert all(0 < share <= 1 for share in expected)


def test_the_emulated_cluster_does_as_the_simulated_one(cluster: Workspace, trace: Path, emulated: Any) -> None:
    """Within the cost of a busy machine.

    Where plans took long, for want of a core, it is between the simulation and one in which they take as long.
    """
    ended = proteus_process("replay", trace, "--plan", "plan", "--json", "-w", cluster.root)
    expected = ended.document()
    assert expected["mode"] == "simulated"
    assert expected["requests"] == emulated["requests"]
    slow = simulated_with(cluster, trace, max((change["solve_s"] for change in emulated["replans"]), default=0.0))
    for name, most in (("slo_violation_ratio", 0.15), ("relative_accuracy", 0.06)):
        low, high = sorted((expected[name], getattr(slow, name)))
        assert low - most <= emulated[name] <= high + most


def simulated_with(cluster: Workspace, trace: Path, solve_s: float) -> Report:
    """What a simulation finds where each plan takes so long."""
    plan = cluster.plan(Path("plan"))
    conditions = Conditions(solve_s=max(solve_s, Conditions().solve_s))
    scenario = Scenario(cluster, cluster.profiles_of(plan), read_trace(trace), plan, plan.headroom, conditions, 0)
    (found,) = simulated(scenario, [PROTEUS])
    return found


def test_the_page_of_its_report_says_so(emulated: Any) -> None:
    assert "<dd>emulated</dd>" in page([msgspec.convert(emulated, Report)])
