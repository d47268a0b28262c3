"""The server does what its OpenAPI document says, to good requests and to bad ones."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import LiveServer, serving
from tiny import Tiny, TinyFamily, TinyVariant, add_plan, add_profiles, make_workspace

pytestmark = pytest.mark.live

# A deadline is far away on any machine.
ROOMY = TinyFamily(
    "shapes", (TinyVariant("shapes-s", 0.7, hidden=4), TinyVariant("shapes-l", 0.9, hidden=16)), slo="60s"
)
WITHIN_S = 270
LARGEST = 3e38
TOKEN = "f00d" * 8
INFER_ONLY = ("--include-path-regex", "infer$")
# That the values of a tensor are as many as its shape says, no schema can say: such requests are right, and refused.
NO_PLANS = '["2xx", 400, 403, 409]'  # without tokens and `--feedback`
NOT_THIS_PLAN = '["2xx", 400, 409, 422]'  # nor does a schema know what devices and variants there are
ALSO_REFUSED = '["2xx", 400, 504]'
GUARDED = "load$|plan$|catalog$|feedback$|families/|rollouts"
"""Paths that are refused without a token or an option, and change what is served."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    tiny = make_workspace(tmp_path_factory.mktemp("live"), (ROOMY,))
    add_profiles(tiny)
    add_plan(tiny, {"cpu0": "shapes-s", "cpu1": "shapes-l"})
    return tiny


@pytest.fixture(scope="module")
def server(made: Tiny) -> Iterator[LiveServer]:
    with serving(made.root, made.place.plans_dir / "plan.json", "--replan=off") as live:
        yield live
        assert live.stop() == 0, live.log.read_text()
        assert "Traceback" not in live.log.read_text()


def run_schemathesis(server: LiveServer, place: Path, document: Any, accepted: str, *options: str) -> int:
    """Check the server against the document; how many requests that took."""
    settings = f"[checks]\npositive_data_acceptance.expected-statuses = {accepted}\n"
    (place / "schemathesis.toml").write_text(settings)
    (place / "openapi.json").write_text(json.dumps(document))
    program = str(Path(sys.executable).parent / "schemathesis")
    command = [
        program, "run", "openapi.json", "--url", f"http://127.0.0.1:{server.port}", "--checks", "all",
        "--generation-deterministic", "--continue-on-failure", "--no-color", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=WITHIN_S)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert found is not None, done.stdout
    assert found[1] == found[2]
    return int(found[1])


@pytest.mark.extended
@pytest.mark.timeout(WITHIN_S + 30)
def test_the_server_does_what_its_document_says_to_good_requests_and_bad_ones(
    server: LiveServer, tmp_path: Path
) -> None:
    document = with_versions(server.get("/openapi.json").document(), "1")
    options = ("--phases", "examples,coverage,fuzzing", "--max-examples", "25")
    free = (*options, "--exclude-path-regex", GUARDED)
    assert run_schemathesis(server, tmp_path, document, ALSO_REFUSED, *free) > 500
    plan = ("--phases", "coverage,fuzzing", "--max-examples", "10", "--include-path-regex", GUARDED)
    assert run_schemathesis(server, tmp_path, document, NO_PLANS, *plan) > 20
    assert server.get("/v2/models/shapes/ready").status == 200


@pytest.mark.extended
@pytest.mark.timeout(WITHIN_S + 30)
def test_requests_that_fit_a_model_are_answered(server: LiveServer, tmp_path: Path) -> None:
    """The document with what else holds of this one family, so that a request that it allows has to be answered."""
    document = json_only(server.get("/openapi.json").document())
    document["components"]["schemas"] |= only_of_shapes(document["components"]["schemas"])
    options = ("--phases", "fuzzing", "--mode", "positive", "--max-examples", "40", *INFER_ONLY)
    assert run_schemathesis(server, tmp_path, document, '["2xx"]', *options) > 40


@pytest.mark.extended
@pytest.mark.timeout(WITHIN_S + 30)
def test_a_server_with_tokens_does_what_its_document_says(made: Tiny, tmp_path: Path) -> None:
    """Also that nothing but what is open answers without the token that the document asks for."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    header = {"Authorization": f"Bearer {TOKEN}"}
    with serving(made.root, made.place.plans_dir / "plan.json", "--replan=off", "--auth-tokens", str(tokens)) as live:
        document = with_versions(live.ask("GET", "/openapi.json", headers=header).document(), "1")
        document["security"] = [{"token": []}]
        options = (
            "--phases",
            "fuzzing",
            "--max-examples",
            "5",
            "--exclude-path-regex",
            GUARDED,
        )
        with_token = ("--header", f"Authorization: Bearer {TOKEN}")
        assert run_schemathesis(live, tmp_path, document, ALSO_REFUSED, *with_token, *options) > 50
        plan = (
            "--phases",
            "coverage,fuzzing",
            "--max-examples",
            "10",
            "--include-path-regex",
            GUARDED,
        )
        assert run_schemathesis(live, tmp_path, document, NOT_THIS_PLAN, *with_token, *plan) > 20


def with_versions(document: Any, *versions: str) -> Any:
    """The document with the family and these versions alone: it cannot say which are served."""
    for path in document["paths"].values():
        for operation in path.values():
            for one in operation.get("parameters", ()):
                if one["in"] == "path" and one["name"] in {"model", "family", "version"}:
                    one["schema"] = {"enum": list(versions) if one["name"] == "version" else ["shapes"]}
    return document


def json_only(document: Any) -> Any:
    """The document without binary tensors, and with the versions that can keep any minimum accuracy."""
    for path in with_versions(document, "1", "shapes-l")["paths"].values():
        for operation in path.values():
            operation["parameters"] = [one for one in operation.get("parameters", ()) if one["in"] == "path"]
            operation.get("requestBody", {"content": {}})["content"].pop("application/octet-stream", None)
    return document


def only_of_shapes(schemas: Any) -> Any:
    """Schemas of requests that are right for `shapes`, in JSON, and can be answered in time."""
    request, asked = schemas["InferRequest"], schemas["RequestParameters"]
    output, wanted = schemas["RequestedOutput"], schemas["OutputParameters"]
    classes = {"enum": [None, 1, 2]}  # to JSON Schema 7.0 is an integer, too, to the server it is none
    numbers = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
    fields = {
        "name": {"const": "x"}, "shape": {"const": [1, 4]}, "datatype": {"const": "FP32"},
        "parameters": {"type": "null"},
        "data": {"type": "array", "minItems": 4, "maxItems": 4, "items": numbers},
    }  # fmt: skip
    inputs = {"type": "array", "minItems": 1, "maxItems": 1, "items": {"$ref": "#/components/schemas/RequestTensor"}}
    outputs = {"type": "array", "maxItems": 1, "items": {"$ref": "#/components/schemas/RequestedOutput"}}
    met = {
        "timeout": {"type": "integer", "minimum": 10**7, "maximum": 10**9},
        "min_accuracy": {"enum": [0, 0.9]}, "min_expected_accuracy": {"enum": [0, 0.9]},
        "max_energy_j": {"type": "null"},  # the profiles know no power
    }  # fmt: skip
    return {
        "RequestTensor": {
            "type": "object",
            "properties": fields,
            "required": list(fields),
            "additionalProperties": False,
        },
        "RequestedOutput": output | {"properties": output["properties"] | {"name": {"const": "scores"}}},
        "OutputParameters": wanted | {"properties": wanted["properties"] | {"classification": classes}},
        "InferRequest": request | {"properties": request["properties"] | {"inputs": inputs, "outputs": outputs}},
        "RequestParameters": asked | {"properties": asked["properties"] | met},
    }


def test_the_documents_examples_are_answered(server: LiveServer) -> None:
    document = server.get("/openapi.json").document()
    body = document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]
    (example,) = body["content"]["application/json"]["examples"].values()
    reply = server.infer("shapes", example["value"])
    assert reply.status == 200
    assert set(reply.document()["parameters"]) == set(
        document["components"]["schemas"]["ResponseParameters"]["required"]
    )
