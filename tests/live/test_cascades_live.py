"""A plan with a cascade, served: sure rows are the first variant's, unsure ones the second's, over both protocols."""

import json
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from cascaded import add_cascaded_plan, answered, shapes_workspace
from live_server import ANSWER_WITHIN_S, LiveServer, serving
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from proteus_cli.arrays import Singles
from proteus_cli.domain.profile import Profile
from proteus_cli.store import write_json

pytestmark = pytest.mark.live

ROWS = np.random.default_rng(5).normal(size=(8, 4)).astype(np.float32)


def margin(scores: Singles) -> float:
    lower, highest = np.sort(scores[0])[-2:]
    return float(highest - lower)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """`shapes-s` defers what has a margin below 0.5 to `shapes-l`; both devices draw 10 W."""
    made = shapes_workspace(tmp_path_factory.mktemp("cascades"))
    for device in ("cpu0", "cpu1"):
        profile = msgspec.json.decode(made.place.profile_path(device).read_bytes(), type=Profile)
        variants = tuple(msgspec.structs.replace(each, power_w=10.0) for each in profile.variants)
        write_json(made.place.profile_path(device), msgspec.structs.replace(profile, variants=variants))
    path = add_cascaded_plan(made)
    with serving(made.root, path, "--replan=off", "--grpc-port", "0") as live:
        yield live
        assert live.stop() == 0, live.log.read_text()


def test_each_row_is_answered_by_the_stage_that_is_to(server: LiveServer) -> None:
    """What rows get one by one, they get together: the sure ones by `shapes-s`, the others by `shapes-l`."""
    alone = [answered(server, row[None]) for row in ROWS]
    for parameters, scores in alone:
        is_sure = parameters["stages"] == 1
        assert parameters["variant"] == ("shapes-s" if is_sure else "shapes-l")
        assert parameters["accuracy"] == (0.95 if is_sure else 0.9)
        assert (float(str(parameters["confidence"])) >= 0.5) == is_sure
        assert not is_sure or margin(scores) == pytest.approx(parameters["confidence"], rel=1e-4)
    assert {parameters["stages"] for parameters, _ in alone} == {1, 2}
    parameters, scores = answered(server, ROWS)
    assert parameters["stages"] == 2
    np.testing.assert_allclose(scores, np.concatenate([each for _, each in alone]), rtol=1e-4)


def test_no_first_answer_goes_out_that_is_less_confident_than_asked(server: LiveServer) -> None:
    """Of the rows that the first stage is sure of, those below the median go to the second now."""
    usual = [(row, answered(server, row[None])[0]) for row in ROWS]
    sure = {tuple(row): float(str(told["confidence"])) for row, told in usual if told["stages"] == 1}
    median = float(np.median(list(sure.values())))
    assert {confidence < median for confidence in sure.values()} == {True, False}
    for row, confidence in sure.items():
        told, scores = answered(server, np.array([row], np.float32), min_confidence=median)
        assert told["stages"] == (1 if confidence >= median else 2)
        assert told["confidence"] == pytest.approx(margin(scores), rel=1e-4)


def test_a_cascade_is_what_keeps_an_expected_accuracy(server: LiveServer) -> None:
    """The most accurate variant has 0.9, and both together 0.925."""
    assert answered(server, ROWS, min_expected_accuracy=0.925)[0]["stages"] == 2


def test_an_answer_within_an_energy_says_what_it_took(server: LiveServer) -> None:
    """8 rows take 0.11 J of the first variant at most; of the second, one alone takes 0.2 J."""
    told, _ = answered(server, ROWS, max_energy_j=0.2)
    assert (told["variant"], told["stages"], told["fallback"]) == ("shapes-s", 1, True)
    assert float(str(told["energy_j"])) > 0
    told, _ = answered(server, ROWS, max_energy_j=10.0)
    assert (told["variant"], told["stages"]) == ("shapes-l", 2)


UNMET = {
    '{"min_expected_accuracy": 0.93}': (
        "nothing of `shapes` that is planned has an expected accuracy of 0.93 or more; "
        "available: shapes-l (0.9), shapes-s (0.7), shapes-s → shapes-l (0.925)"
    ),
    '{"max_energy_j": 1e-05}': (
        "nothing of `shapes` that is planned has an energy of 1e-05 J or less; "
        "available: shapes-l (0.9, 0.2 J), shapes-s (0.7, 0.04 J)"
    ),
}


@pytest.mark.parametrize("asked", UNMET)
def test_what_nothing_keeps_is_refused_with_what_there_is_over_both_protocols(server: LiveServer, asked: str) -> None:
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}
    reply = server.infer("shapes", {"inputs": [tensor], "parameters": json.loads(asked)})
    assert (reply.status, reply.document(), reply.headers["proteus-outcome"]) == (
        400, {"error": UNMET[asked]}, "rejected",
    )  # fmt: skip
    with grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        x = grpc.InferInput("x", [1, 4], "FP32")
        x.set_data_from_numpy(ROWS[:1])
        with pytest.raises(InferenceServerException) as refused:
            client.infer("shapes", [x], parameters=json.loads(asked))
    assert (refused.value.status(), refused.value.message()) == ("StatusCode.INVALID_ARGUMENT", UNMET[asked])


@pytest.mark.parametrize("asked", [{}, {"min_confidence": 1.0}, {"min_expected_accuracy": 0.92}], ids=str)
def test_grpc_says_the_same(server: LiveServer, asked: dict[str, float]) -> None:
    parameters, scores = answered(server, ROWS, **asked)
    with grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        x = grpc.InferInput("x", list(ROWS.shape), "FP32")
        x.set_data_from_numpy(ROWS)
        answer = client.infer("shapes", [x], timeout=int(ANSWER_WITHIN_S * 1e6), parameters=asked)
    told = {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in answer.get_response().parameters.items()}
    for name in ("variant", "accuracy", "stages", "confidence"):
        assert told[name] == parameters[name]
    np.testing.assert_allclose(answer.as_numpy("scores"), scores, rtol=1e-4)


def counted(server: LiveServer) -> tuple[float, float]:
    metrics = server.get("/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("proteus_"))
    deferred, fallbacks = "proteus_deferred_requests_total", "proteus_fallback_answers_total"
    return float(values[deferred + '{family="shapes"}']), float(values[fallbacks + '{family="shapes"}'])


def test_metrics_count_what_was_deferred(server: LiveServer) -> None:
    deferred, fallbacks = counted(server)
    answered(server, ROWS)
    assert counted(server) == (deferred + 1, fallbacks)
    answered(server, ROWS, max_energy_j=0.2)
    assert counted(server) == (deferred + 2, fallbacks + 1)


def test_metrics_and_status_tell_what_is_deferred_as_planned_and_as_observed(server: LiveServer) -> None:
    def seen() -> tuple[float, int]:
        """Rows below the threshold so far, and all."""
        (cascade,) = server.get("/v2/proteus/status").document()["families"]["shapes"]["cascades"]
        assert {name: cascade[name] for name in ("first", "second", "threshold", "rate_qps", "planned")} == {
            "first": "shapes-s", "second": "shapes-l", "threshold": 0.5, "rate_qps": 10.0, "planned": 0.5,
        }  # fmt: skip
        return cascade["rows"] * (cascade["observed"] or 0.0), cascade["rows"]

    below_before, rows_before = seen()
    deferred = sum(answered(server, row[None])[0]["stages"] == 2 for row in ROWS)
    below, rows = seen()
    assert below - below_before == pytest.approx(deferred)
    assert rows - rows_before == len(ROWS)
    metrics = server.get("/metrics").body.decode()
    values = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("proteus_cascade"))
    labels = 'proteus_cascade_deferred_ratio{family="shapes",first="shapes-s",of="%s",second="shapes-l"}'
    assert float(values[labels % "planned"]) == 0.5
    assert float(values[labels % "observed"]) == pytest.approx(below / rows)
