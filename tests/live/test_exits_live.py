"""A multi-exit model, served: each row stops at its exit, and the answer says which, over both protocols."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from exit_nets import add_exits
from live_agents import agents, share_profile
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from msgspec.structs import replace
from tiny import SHAPES, Tiny, TinyFamily, make_workspace
from tritonclient import grpc

from proteus_cli.arrays import Singles
from proteus_cli.backends.exits.loading import WithExits
from proteus_cli.backends.exits.runner import CONFIDENCE_NOTE, EXIT_NOTE
from proteus_cli.backends.onnxruntime import OnnxRuntime
from proteus_cli.domain.device import Device
from proteus_cli.domain.stages.exits import ExitProfile, StagePoint
from proteus_cli.store import write_json

pytestmark = pytest.mark.live

ROWS = np.random.default_rng(5).normal(size=(8, 4)).astype(np.float32)
SHORT, LONG = (StagePoint(1, 1e-6, 1e-6),), (StagePoint(1, 1e6, 1e6),)
EXITS = (ExitProfile(0.5, 0.9, 0.4, SHORT), ExitProfile(0.3, 0.7, 0.3, SHORT), ExitProfile(0.2, 0.5, None, SHORT))
SLOW_END = (*EXITS[:2], ExitProfile(0.2, 0.5, None, LONG))
"""The last stage takes days, so nothing has time for it."""
ON_A_HOST = "on a host"
WHERE = ["in the server", "in a process", pytest.param(ON_A_HOST, marks=[pytest.mark.extended, pytest.mark.hosts])]


@contextmanager
def serving_exits(
    root: Path, exits: Sequence[ExitProfile], how: str, whole_s: float = 0.0, power_w: float | None = None
) -> Iterator[LiveServer]:
    made = make_workspace(root, (TinyFamily("shapes", SHAPES.variants[:1], slo="60s"),))
    path = add_exits(made, "shapes-exits", "confidence >= 2", exits, whole_s=whole_s, power_w=power_w)
    options = {"in a process": ["--set=executor=process"], "emulated": ["--emulate"]}.get(how, [])
    with ExitStack() as stack:
        if how == ON_A_HOST:
            share_profile(made, "a")
            place_on(made, path, "a/cpu0")
            stack.enter_context(agents(made.root, "a"))
            options = ["--cluster", str(made.root / "hosts.toml")]
        live = stack.enter_context(serving(made.root, path, "--replan=off", "--grpc-port", "0", *options))
        yield live
        assert live.stop() == 0, live.log.read_text()


def place_on(made: Tiny, path: Path, device: str) -> None:
    """Have a plan for one device be for another."""
    plan = made.place.plan(path)
    placements = tuple(replace(each, device=device) for each in plan.placements)
    write_json(path, replace(plan, placements=placements, fleet=dict.fromkeys(plan.fleet, (device,))))


@pytest.fixture(scope="module", params=WHERE)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with serving_exits(tmp_path_factory.mktemp("exits"), EXITS, request.param) as live:
        yield live


def answered(server: LiveServer, rows: Singles, **asked: float) -> tuple[dict[str, object], Singles]:
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    parameters = {"timeout": int(ANSWER_WITHIN_S * 1e6), **asked}
    reply = server.infer("shapes", {"inputs": [tensor], "parameters": parameters})
    assert reply.status == 200, reply.body
    document = reply.document()
    assert [output["name"] for output in document["outputs"]] == ["scores"]
    output = document["outputs"][0]
    return document["parameters"], np.array(output["data"], np.float32).reshape(output["shape"])


def chain_of(server: LiveServer) -> Path:
    (found,) = (server.log.parent / "engines" / "prepared").glob("*.exits")
    return found


def test_answers_are_those_of_the_chain_and_say_their_exit(server: LiveServer) -> None:
    device = Device("cpu0", "cpu", "cpu", "a CPU", memory_bytes=0, cores=(0,))
    with WithExits(OnnxRuntime(device)).runner(chain_of(server)) as runner:
        expected = runner.infer({"x": ROWS})
    worth = [each.accuracy for each in EXITS]
    assert set(expected[EXIT_NOTE]) == {1, 2, 3}
    for row, place, sure, scores in zip(
        ROWS, expected[EXIT_NOTE], expected[CONFIDENCE_NOTE], expected["scores"], strict=True
    ):
        parameters, own = answered(server, row[None])
        assert (parameters["exit"], parameters["accuracy"]) == (place, worth[place - 1])
        assert parameters["confidence"] == pytest.approx(sure, rel=1e-4)
        assert parameters.keys().isdisjoint({"stages", "cut"})
        np.testing.assert_allclose(own[0], scores, rtol=1e-3, atol=1e-5)
    parameters, own = answered(server, ROWS)
    assert parameters["exit"] == 3
    assert parameters["accuracy"] == pytest.approx(np.mean([worth[place - 1] for place in expected[EXIT_NOTE]]))
    assert parameters["confidence"] == pytest.approx(min(expected[CONFIDENCE_NOTE]), rel=1e-4)
    np.testing.assert_allclose(own, expected["scores"], rtol=1e-3, atol=1e-5)


def test_no_row_stops_where_it_is_less_confident_than_asked(server: LiveServer) -> None:
    """It asks for the median confidence of rows that stop before the last exit, so that half of these go on."""
    usual = [answered(server, row[None])[0] for row in ROWS]
    sure = [float(str(told["confidence"])) for told in usual]
    median = float(np.median([each for each, told in zip(sure, usual, strict=True) if told["exit"] != 3]))
    asking = [answered(server, row[None], min_confidence=median)[0] for row in ROWS]
    moved = [before["exit"] != after["exit"] for before, after in zip(usual, asking, strict=True)]
    assert moved == [told["exit"] != 3 and each < median for told, each in zip(usual, sure, strict=True)]
    assert any(moved)
    assert all(told["exit"] == 3 or float(str(told["confidence"])) >= median for told in asking)
    assert [told["accuracy"] for told in asking] == [told["accuracy"] for told in usual], "they are no harder for that"


def test_grpc_says_the_same(server: LiveServer) -> None:
    parameters, scores = answered(server, ROWS)
    with grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        x = grpc.InferInput("x", list(ROWS.shape), "FP32")
        x.set_data_from_numpy(ROWS)
        answer = client.infer("shapes", [x], timeout=int(ANSWER_WITHIN_S * 1e6))
    told = {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in answer.get_response().parameters.items()}
    for name in ("variant", "accuracy", "exit", "confidence"):
        assert told[name] == parameters[name]
    np.testing.assert_allclose(answer.as_numpy("scores"), scores, rtol=1e-4)


@pytest.mark.parametrize("how", WHERE)
def test_a_stage_that_would_be_too_late_is_not_begun(tmp_path: Path, how: str) -> None:
    """Rows that would need it have the answer of the exit before, which says so; the others are as before."""
    with serving_exits(tmp_path, SLOW_END, how) as live:
        device = Device("cpu0", "cpu", "cpu", "a CPU", memory_bytes=0, cores=(0,))
        with WithExits(OnnxRuntime(device)).runner(chain_of(live)) as runner:
            expected = runner.infer({"x": ROWS})[EXIT_NOTE].tolist()
        told = [answered(live, row[None])[0] for row in ROWS]
        both = answered(live, ROWS)[0]
        with grpc.InferenceServerClient(f"127.0.0.1:{live.grpc_port}") as client:
            x = grpc.InferInput("x", list(ROWS.shape), "FP32")
            x.set_data_from_numpy(ROWS)
            answer = client.infer("shapes", [x], timeout=int(ANSWER_WITHIN_S * 1e6)).get_response()
    assert {1, 3} <= set(expected)
    assert [parameters["exit"] for parameters in told] == [min(place, 2) for place in expected]
    assert [parameters.get("cut", False) for parameters in told] == [place == 3 for place in expected]
    worth = {1: 0.9, 2: 0.7, 3: 0.3}  # the last is that of exit 2 in rows that should have gone on
    assert [parameters["accuracy"] for parameters in told] == [worth[place] for place in expected]
    assert (both["exit"], both["cut"]) == (2, True)
    assert answer.parameters["cut"].bool_param


@pytest.mark.parametrize("how", WHERE)
def test_a_stage_that_would_take_too_much_energy_is_not_begun(tmp_path: Path, how: str) -> None:
    """Each stage takes 0.1 J of a row. Answers say what they took, and who has less is told what would do."""
    with serving_exits(tmp_path, EXITS, how, power_w=1e5) as live:
        usual = [answered(live, row[None])[0]["exit"] for row in ROWS]
        for stages, limit_j in ((1, 0.15), (2, 0.25), (3, 0.35)):
            told = [answered(live, row[None], max_energy_j=limit_j)[0] for row in ROWS]
            exits = [min(int(str(place)), stages) for place in usual]
            assert [parameters["exit"] for parameters in told] == exits
            assert [parameters.get("cut", False) for parameters in told] == [
                place != usual[n] for n, place in enumerate(exits)
            ]
            assert [parameters["energy_j"] for parameters in told] == pytest.approx([0.1 * place for place in exits])
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROWS[0].tolist()}
        refused = live.infer("shapes", {"inputs": [tensor], "parameters": {"max_energy_j": 0.09}})
    assert usual.count(3) > 0
    assert refused.status == 400
    assert "has an energy of 0.09 J or less; available: shapes-exits (0.5, 0.1 J)" in refused.document()["error"]


@pytest.mark.parametrize("how", WHERE)
def test_a_bound_below_the_whole_chain_is_kept_by_the_first_exits(tmp_path: Path, how: str) -> None:
    """As profiled, a batch takes days, and so does the last stage; the others take no time. No request has days."""
    with serving_exits(tmp_path, SLOW_END, how, whole_s=1e6) as live:
        told = [answered(live, row[None])[0] for row in ROWS]
        metrics = live.get("/metrics").body.decode()
        tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": ROWS[0].tolist()}
        demanding = live.infer("shapes", {"inputs": [tensor], "parameters": {"min_accuracy": 0.4}})
    assert {parameters["exit"] for parameters in told} == {1, 2}
    assert {parameters.get("cut", False) for parameters in told} == {True, False}
    assert demanding.status == 400  # it may not be cut short, and a plan that could host another variant never follows
    cut = sum(bool(parameters.get("cut")) for parameters in told)
    assert f'proteus_cut_answers_total{{exit="2",family="shapes",variant="shapes-exits"}} {cut}.0' in metrics


def test_emulated_answers_with_an_exit_are_marked(tmp_path: Path) -> None:
    with serving_exits(tmp_path, EXITS, "emulated") as live:
        parameters, _ = answered(live, ROWS[:1])
    assert parameters["emulated"] is True
    assert parameters["exit"] in {1, 2, 3}
